"""What can be wrong with a script: every error of this package names file and line.

Interface: :class:`ScriptError`, the root; :class:`ScriptSyntaxError`: nobody could read it; :class:`ScriptUnsupported`: it is
right, but asks for something that kemu does not have; :class:`ScriptFailure`: what was expected did not happen.
"""

from __future__ import annotations

from kemu.errors import ConfigError


class ScriptError(ConfigError):
    """An error with its place.

    :ivar where: "file:line".
    :ivar reason: the sentence alone.
    """

    def __init__(self, name: str, line: int, reason: str) -> None:
        self.where = f"{name}:{line}"
        self.reason = reason
        super().__init__(f"{self.where}: {reason}")


class ScriptSyntaxError(ScriptError):
    """The text is no script."""


class ScriptUnsupported(ScriptError):
    """A construct of the language that is not built, or one that a kernel of 2007 does not have."""


class ScriptFailure(ScriptError):
    """The stack did something else than the script says."""
