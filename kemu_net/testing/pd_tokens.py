"""Walk over the tokens of a script: what all parts of its parser share.

Interface: :class:`TokenStream` with ``peek``, ``take``, ``accept``, ``expect``, ``error`` and ``unsupported``.

Rules of this file
    * A word that ``defines`` knows is replaced by the tokens of its value when it is come to, once.
    * Every error says line and column of the token that it is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from kemu_net.testing.pd_errors import ScriptSyntaxError, ScriptUnsupported
from kemu_net.testing.pd_lexer import Token, tokenize

if TYPE_CHECKING:
    from collections.abc import Mapping

U8, U16, U32 = (1 << 8) - 1, (1 << 16) - 1, (1 << 32) - 1
MAX_NUMBER: Final = 1 << 64


class TokenStream:
    """The tokens of one script.

    :ivar defines: name -> replacement, from ``--define`` and the command line.
    """

    def __init__(self, text: str, name: str, defines: Mapping[str, str]) -> None:
        self.name = name
        self.defines = dict(defines)
        self._tokens = tokenize(text, name)
        self._at = 0

    @property
    def token(self) -> Token:
        """The token that is next."""
        token = self._tokens[self._at]
        if token.kind == "WORD" and token.text in self.defines:
            value = self.defines[token.text]
            made = [each._replace(line=token.line, column=token.column) for each in tokenize(value, self.name)[:-1]]
            if not made:
                raise self.error(f"the defined {token.text!r} is empty")
            if made[0].kind == "OPTION" or any(each.text == token.text for each in made):
                raise self.error(f"the value {value!r} of {token.text!r} cannot be used")
            if any(each.text in self.defines for each in made):
                raise self.error(f"the value {value!r} of {token.text!r} contains a defined word")
            self._tokens[self._at : self._at + 1] = made
            token = self._tokens[self._at]
        return token

    @property
    def line(self) -> int:
        """The line of the next token."""
        return self._tokens[self._at].line

    def ahead(self, count: int = 1) -> Token:
        """Give the token after the next, as it is written."""
        return self._tokens[min(self._at + count, len(self._tokens) - 1)]

    def take(self) -> Token:
        """Take the next token."""
        token = self.token
        if token.kind != "END":
            self._at += 1
        return token

    def accept(self, text: str, kind: str = "PUNCT") -> bool:
        """Take the next token if it is this one."""
        token = self.token
        if token.kind == kind and token.text == text:
            self._at += 1
            return True
        return False

    def accept_word(self, text: str) -> bool:
        """Take the next token if it is this word."""
        return self.accept(text, "WORD")

    def expect(self, text: str, where: str) -> None:
        """Take this punctuation."""
        if not self.accept(text):
            raise self.error(f"{text!r} expected {where}, not {self.shown()}")

    def shown(self) -> str:
        """Name the next token for people."""
        token = self._tokens[self._at]
        return "the end of the script" if token.kind == "END" else repr(token.text[:40])

    def number(self, what: str, limit: int = MAX_NUMBER, low: int = 0) -> int:
        """Take a whole number from ``low`` to ``limit``."""
        token = self.token
        if token.kind not in ("INT", "HEX"):
            raise self.error(f"{what} is a number, not {self.shown()}")
        if len(token.text) > 30:
            raise self.error(f"{what} is out of range")
        value = int(token.text, 16 if token.kind == "HEX" else 10)
        if not low <= value <= limit:
            raise self.error(f"{what} {value} is out of range; it goes from {low} to {limit}")
        self._at += 1
        return value

    def word(self, what: str) -> str:
        """Take a word."""
        if self.token.kind != "WORD":
            raise self.error(f"{what} expected, not {self.shown()}")
        return self.take().text

    def error(self, reason: str) -> ScriptSyntaxError:
        """Make the error for the next token."""
        token = self._tokens[self._at]
        return ScriptSyntaxError(self.name, token.line, f"column {token.column}: {reason}")

    def unsupported(self, what: str) -> NoReturn:
        """Say that a construct is not built."""
        raise ScriptUnsupported(self.name, self.line, what)
