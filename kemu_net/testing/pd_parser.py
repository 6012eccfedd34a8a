"""Parse a packetdrill script: options, events, system calls and their arguments.

Interface: ``parse_script(text, name, defines=None) -> Script``; raises :exc:`ScriptSyntaxError` or :exc:`ScriptUnsupported` only.

Rules of this file
    * Grammar: options, commands, then events; an event is a time and a packet, a call, a command in backticks or Python in
      ``%{ }%``.
    * Times are seconds with up to nine digits behind the point. Ranges and ``*`` are for packets that are expected.
    * A struct is read as pairs of names and values; which structs exist is not the parser's business (pd_args.py).
    * Expressions nest at most MAX_DEPTH deep.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from kemu_net.testing.pd_ast import (
    ABSOLUTE,
    ANY_TIME,
    IN,
    OUT,
    RELATIVE,
    Call,
    Code,
    Command,
    Dots,
    Event,
    Expr,
    Func,
    Items,
    Number,
    Or,
    Packet,
    Script,
    ScriptOption,
    Struct,
    Text,
    When,
    Word,
)
from kemu_net.testing.pd_parse_packet import parse_packet
from kemu_net.testing.pd_tokens import TokenStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kemu_net.testing.pd_errors import ScriptSyntaxError
    from kemu_net.testing.pd_lexer import Token

MAX_DEPTH: Final = 20
MAX_SECONDS: Final = 1_000_000


def parse_script(text: str, name: str, defines: Mapping[str, str] | None = None) -> Script:
    """Parse a script.

    :param name: of the file, for errors.
    :param defines: what the command line defines; it wins over the script's own ``--define``.
    """
    stream = TokenStream(text, name, {})
    options = _options(stream)
    for option in options:
        if option.name in ("define", "D"):
            symbol, equals, value = (option.value or "").partition("=")
            if not symbol.isidentifier() or not equals or not value:
                raise stream.error(f"--define=NAME=VALUE expected, not --define={option.value}")
            stream.defines[symbol] = value
    stream.defines.update(defines or {})
    before: list[tuple[int, Command]] = []
    while stream.token.kind == "COMMAND":
        before.append((stream.line, Command(stream.take().text)))
    events: list[Event] = []
    after: list[tuple[int, Command]] = []
    while stream.token.kind != "END":
        if stream.token.kind == "COMMAND":
            after.append((stream.line, Command(stream.take().text)))
            continue
        if stream.token.kind == "OPTION":
            raise stream.error("options stand before the first event")
        if after:
            raise stream.error("a command without a time stands before the first event or behind the last")
        events.append(_event(stream))
    if not events:
        raise stream.error("the script has no events")
    return Script(name, tuple(options), tuple(before), tuple(events), tuple(after))


def _options(stream: TokenStream) -> list[ScriptOption]:
    """Parse the ``--name=value`` lines."""
    options: list[ScriptOption] = []
    while stream.token.kind == "OPTION":
        token = stream.take()
        name, equals, value = token.text.lstrip("-").partition("=")
        if not equals and name == "D" and stream.token.kind == "WORD":  # -D NAME=VALUE
            value = stream.take().text
            if stream.accept("="):
                value = f"{value}={stream.take().text}"
            equals = "="
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        options.append(ScriptOption(token.line, name, value if equals else None))
    return options


# events


def _event(stream: TokenStream) -> Event:
    """Parse one event."""
    line = stream.line
    when = _when(stream)
    token = stream.token
    action: Packet | Call | Command | Code
    if token.kind == "PUNCT" and token.text in (IN, OUT):
        action = parse_packet(stream)
    elif token.kind == "COMMAND":
        action = Command(stream.take().text)
    elif token.kind == "CODE":
        action = Code(stream.take().text)
    elif token.kind in ("WORD", "DOTS"):
        action = _call(stream)
    else:
        raise stream.error(f"a packet, a system call, a command or code expected after the time, not {stream.shown()}")
    expected = isinstance(action, Packet) and action.direction == OUT
    if (when.kind == ANY_TIME or when.last is not None) and not expected:
        raise stream.error("'*' and a range of time are for packets that are expected")
    return Event(line, when, action)


def _when(stream: TokenStream) -> When:
    """Parse the time of an event."""
    if stream.accept("*"):
        return When(ANY_TIME)
    relative = stream.accept("+")
    start = _time(stream)
    last = None
    if stream.accept("~"):
        if relative:
            stream.accept("+")
        last = _time(stream)
        if last < start:
            raise stream.error("the range of time is backwards")
    return When(RELATIVE if relative else ABSOLUTE, start, last)


def _time(stream: TokenStream) -> int:
    """Parse seconds into ns."""
    token = stream.token
    if token.kind not in ("FLOAT", "INT"):
        raise stream.error(f"a time in seconds expected, not {stream.shown()}")
    if len(token.text) > 30 or not 0 <= Decimal(token.text) <= MAX_SECONDS:
        raise stream.error(f"a time is from 0 to {MAX_SECONDS} seconds")
    stream.take()
    return int(Decimal(token.text) * 1_000_000_000)


def _call(stream: TokenStream) -> Call:
    """Parse a system call."""
    end = None
    if stream.token.kind == "DOTS":
        stream.take()
        stream.accept("+")
        end = _time(stream)
    name = stream.word("the name of a system call")
    stream.expect("(", f"after {name}")
    args = _list(stream, ")", 0)
    stream.expect("=", f"after the arguments of {name}()")
    result = _expr(stream, 0)
    errno = None
    if stream.token.kind == "WORD":
        errno = stream.take().text
    if stream.accept("("):
        _note(stream)
    return Call(name, args, result, errno, end)


def _note(stream: TokenStream) -> None:
    """Skip the text of an errno: what it says follows from its name."""
    depth = 1
    while depth:
        token = stream.take()
        if token.kind == "END":
            raise stream.error("the note that was begun with '(' has no end")
        if token.kind == "PUNCT":
            depth += {"(": 1, ")": -1}.get(token.text, 0)


# expressions


def _list(stream: TokenStream, close: str, depth: int) -> tuple[Expr, ...]:
    """Parse expressions with commas between, up to ``close``."""
    items: list[Expr] = []
    while not stream.accept(close):
        if items:
            stream.expect(",", "between two values")
        items.append(_expr(stream, depth + 1))
    return tuple(items)


def _expr(stream: TokenStream, depth: int) -> Expr:
    """Parse an expression."""
    if depth > MAX_DEPTH:
        raise stream.error(f"values nest at most {MAX_DEPTH} deep")
    value = _primary(stream, depth)
    while stream.accept("|"):
        value = Or(value, _primary(stream, depth + 1))
        depth += 1
        if depth > 10 * MAX_DEPTH:
            raise stream.error("too many values are joined by '|'")
    return value


def _primary(stream: TokenStream, depth: int) -> Expr:
    """Parse what stands between operators."""
    token = stream.token
    if token.kind == "DOTS":
        stream.take()
        return Dots()
    if token.kind in ("INT", "HEX"):
        return Number(stream.number("a value", low=-(1 << 63)))
    if token.kind == "STRING":
        return _text(stream)
    if token.kind == "WORD":
        name = stream.take().text
        if stream.accept("("):
            return Func(name, _list(stream, ")", depth))
        return Word(name)
    if stream.accept("["):
        return Items(_list(stream, "]", depth))
    if stream.accept("{"):
        return _struct(stream, depth)
    raise _no_value(stream, token)


def _no_value(stream: TokenStream, token: Token) -> ScriptSyntaxError:
    """Say that no value begins here."""
    if token.kind == "FLOAT":
        return stream.error(f"a whole number expected, not {token.text}")
    return stream.error(f"a value expected, not {stream.shown()}")


def _text(stream: TokenStream) -> Expr:
    """Parse strings in quotes; those that stand side by side are one."""
    text = ""
    while stream.token.kind == "STRING":
        text += stream.take().text
    if stream.token.kind == "DOTS":
        stream.take()
    return Text(text)


def _struct(stream: TokenStream, depth: int) -> Struct:
    """Parse ``{name = value, ...}``."""
    fields: list[tuple[str | None, Expr]] = []
    while not stream.accept("}"):
        if fields:
            stream.expect(",", "between two fields")
        name = None
        if stream.token.kind == "WORD" and stream.ahead().text in ("=", "("):
            start = stream.token
            value = _expr(stream, depth + 1)
            if stream.accept("="):
                name = start.text
                value = _expr(stream, depth + 1)
        else:
            value = _expr(stream, depth + 1)
        fields.append((name, value))
    return Struct(tuple(fields))
