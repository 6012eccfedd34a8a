"""The errors that kemu raises.

Inside the emulated kernel errors travel as they do in C: ``None`` for NULL and negative errno values. What leaves the
emulator is an exception of this file, all of one root.
"""

from __future__ import annotations


class KemuError(Exception):
    """The root of all errors that kemu raises on purpose."""


class ConfigError(KemuError):
    """What a person typed cannot be used: says what was wrong and what is allowed. Exit status 2."""


class KernelBug(KemuError):
    """An emulated BUG(), oops or broken invariant: what was expected, what was found, and the state.

    :param message: one sentence.
    :param state: the object whose invariant broke; its repr is appended.
    """

    def __init__(self, message: str, state: object = None) -> None:
        super().__init__(message)
        self.state = state

    def __str__(self) -> str:
        """Give the sentence, and the state if there is one."""
        message = super().__str__()
        return message if self.state is None else f"{message}\n  state: {self.state!r}"


class KernelPanic(KernelBug):
    """The emulated panic(): no killable process, or an init that died."""


class Deadlock(KemuError):
    """The caller of the test blocks and nothing that could wake it will ever happen."""
