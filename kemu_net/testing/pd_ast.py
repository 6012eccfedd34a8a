"""What a parsed packetdrill script consists of.

Interface: :class:`Script` holds :class:`Event` objects; each has a :class:`When` and an action: :class:`Packet`, :class:`Call`,
:class:`Command` or :class:`Code`. Arguments of calls are expressions: :data:`Expr`.

Rules of this file: times are in ns; numbers are as the script writes them (relative sequence numbers); everything is frozen.
"""

from __future__ import annotations

from typing import Final

import attrs

ABSOLUTE: Final = "absolute"
RELATIVE: Final = "relative"
ANY_TIME: Final = "any"

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
FLAG_LETTERS: Final = {"F": FIN, "S": SYN, "R": RST, "P": PSH, ".": ACK, "U": URG, "E": ECE, "W": CWR, "C": CWR}
FLAG_ORDER: Final = "FSRPUEW."

IN, OUT = "<", ">"


# expressions


@attrs.frozen
class Dots:
    """``...``: whatever; of a buffer or an address, the usual one."""


@attrs.frozen
class Number:
    """A number."""

    value: int


@attrs.frozen
class Word:
    """A symbolic constant."""

    name: str


@attrs.frozen
class Text:
    """A string in quotes."""

    value: str


@attrs.frozen
class Or:
    """``a | b``."""

    left: Expr
    right: Expr


@attrs.frozen
class Items:
    """``[a, b]``."""

    items: tuple[Expr, ...]


@attrs.frozen
class Func:
    """``htons(80)``, ``inet_addr("10.0.0.1")``."""

    name: str
    args: tuple[Expr, ...]


@attrs.frozen
class Struct:
    """``{fd=3, events=POLLIN}`` or ``{..., 100}``: pairs of a name, None without one, and a value."""

    fields: tuple[tuple[str | None, Expr], ...]

    def get(self, name: str) -> Expr | None:
        """Give the field of that name."""
        return next((value for key, value in self.fields if key == name), None)


Expr = Dots | Number | Word | Text | Or | Items | Func | Struct


# packets


@attrs.frozen
class Option:
    """One TCP option: its name and its numbers (``sack`` has two for each block)."""

    name: str
    values: tuple[int, ...] = ()


@attrs.frozen
class TcpSpec:
    """A TCP segment. ``win`` None: not looked at; ``options`` None: any.

    :ivar ports: (source, destination) if the script names them.
    """

    flags: int
    seq: int
    length: int
    ack: int | None
    win: int | None
    urg: int
    options: tuple[Option, ...] | None
    ports: tuple[int, int] | None = None


@attrs.frozen
class UdpSpec:
    """A datagram of so many bytes."""

    length: int
    ports: tuple[int, int] | None = None


@attrs.frozen
class IcmpSpec:
    """An ICMP message; ``seq`` and ``length`` are of the packet that it is about, whose protocol is ``about``."""

    type: int
    code: int
    mtu: int | None
    id: int
    about: str
    seq: int
    length: int


@attrs.frozen
class RawSpec:
    """An IP packet as it stands."""

    data: bytes


@attrs.frozen
class Packet:
    """``<`` something that the peer sends, ``>`` something that it expects.

    :ivar tos: the byte to send or to find, None: not looked at; ``tos_mask`` are the bits that count.
    :ivar fragment: (offset, length, identification): only this slice of the IP payload is sent.
    """

    direction: str
    body: TcpSpec | UdpSpec | IcmpSpec | RawSpec
    tos: int | None = None
    tos_mask: int = 0xFF
    ttl: int | None = None
    fragment: tuple[int, int, int] | None = None
    text: str = ""


# events


@attrs.frozen
class Call:
    """A system call, its result and, if it may block, when it returns (in ns, as the event's time)."""

    name: str
    args: tuple[Expr, ...]
    result: Expr
    errno: str | None
    end: int | None
    text: str = ""


@attrs.frozen
class Command:
    """A shell command."""

    text: str


@attrs.frozen
class Code:
    """Python."""

    text: str


@attrs.frozen
class When:
    """When an event happens: ``kind`` and ns; ``last`` is the end of a range."""

    kind: str
    time: int = 0
    last: int | None = None


@attrs.frozen
class Event:
    """One line of the script."""

    line: int
    when: When
    action: Packet | Call | Command | Code


@attrs.frozen
class ScriptOption:
    """``--name=value``; None without a value."""

    line: int
    name: str
    value: str | None


@attrs.frozen
class Script:
    """A script.

    :ivar before: commands that stand before the first event, with their lines; ``after``: the one behind the last.
    """

    name: str
    options: tuple[ScriptOption, ...]
    before: tuple[tuple[int, Command], ...]
    events: tuple[Event, ...]
    after: tuple[tuple[int, Command], ...] = ()
