"""Cut a packetdrill script into tokens.

Interface: ``tokenize(text, name) -> list[Token]``; the last one is of kind ``END``.

Rules of this file
    * Kinds: OPTION (``--name=value``, the value as written), FLOAT, INT, HEX, IPV4, WORD, STRING, COMMAND (in backticks), CODE (in
      ``%{ }%``), DOTS (``...``), PUNCT and END.
    * Comments begin with ``//`` or ``#`` and end with the line, or stand between ``/*`` and ``*/``.
    * A minus belongs to the number that follows it at once.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kemu_net.testing.pd_errors import ScriptSyntaxError

MAX_SCRIPT: Final = 1_000_000
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}

_TOKEN: Final = re.compile(
    r"""
    (?P<SPACE>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
  | (?P<OPTION>--?[A-Za-z_][A-Za-z0-9_]*(?:=(?:"[^"\n]*"|`[^`]*`|[^\s"`])*)?)
  | (?P<CODE>%\{.*?\}%)
  | (?P<COMMAND>`(?:\\.|[^`\\])*`)
  | (?P<STRING>"(?:\\.|[^"\\\n])*")
  | (?P<DOTS>\.\.\.)
  | (?P<IPV4>[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)
  | (?P<HEX>0x[0-9a-fA-F]+\b)
  | (?P<FLOAT>-?[0-9]*\.[0-9]+)
  | (?P<INT>-?[0-9]+(?![0-9A-Za-z_]))
  | (?P<WORD>[A-Za-z0-9_]+)
  | (?P<PUNCT>(?!/\*|%\{)[!\#-/:-@\[-_{-~])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class Token(NamedTuple):
    """One token: what it is, its text, and where it stands (both from 1)."""

    kind: str
    text: str
    line: int
    column: int


def tokenize(text: str, name: str) -> list[Token]:
    """Cut ``text`` into tokens; ``name`` is the file's, for errors."""
    if len(text) > MAX_SCRIPT:
        raise ScriptSyntaxError(name, 1, f"a script has at most {MAX_SCRIPT} characters")
    tokens: list[Token] = []
    at = 0
    line = 1
    line_start = 0
    size = len(text)
    while at < size:
        match = _TOKEN.match(text, at)
        if match is None:
            raise ScriptSyntaxError(name, line, f"column {at - line_start + 1}: {_complaint(text, at)}")
        kind = match.lastgroup
        assert kind is not None
        found = match.group()
        if kind != "SPACE":
            tokens.append(Token(kind, _content(kind, found), line, at - line_start + 1))
        newlines = found.count("\n")
        if newlines:
            line += newlines
            line_start = at + found.rindex("\n") + 1
        at = match.end()
    tokens.append(Token("END", "", line, at - line_start + 1))
    return tokens


def _complaint(text: str, at: int) -> str:
    """Say why no token begins here."""
    for begin, what in (("/*", "the comment"), ("%{", "the code"), ("`", "the command"), ('"', "the string")):
        if text.startswith(begin, at):
            return f"{what} that begins here has no end"
    return f"{text[at]!r} has no meaning here"


def _content(kind: str, found: str) -> str:
    """Take the quotes off."""
    if kind in ("STRING", "COMMAND"):
        return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), found[1:-1], flags=re.DOTALL)
    if kind == "CODE":
        return found[2:-2].strip(" \t")
    return found
