"""Write packets and calls as scripts do, for people: ``S. 0:0(0) ack 1 win 5840 <mss 1460>``.

Interface: ``show_spec(packet)``, ``show_seen(seen)`` (in the script's numbers), ``call_text(call)``.
"""

from __future__ import annotations

from kemu_net.testing.pd_ast import (
    FLAG_LETTERS,
    FLAG_ORDER,
    Call,
    Dots,
    Expr,
    Func,
    IcmpSpec,
    Items,
    Number,
    Option,
    Packet,
    RawSpec,
    Struct,
    TcpSpec,
    Text,
    UdpSpec,
)
from kemu_net.testing.pd_icmp import icmp_name
from kemu_net.testing.pd_wire import ICMP, TCP, UDP, Seen


def show_flags(flags: int) -> str:
    """Name TCP flags."""
    return "".join(letter for letter in FLAG_ORDER if flags & FLAG_LETTERS[letter]) or "-"


def show_options(options: tuple[Option, ...]) -> str:
    """Name TCP options."""
    return f" <{','.join(map(_option, options))}>" if options else ""


def _option(option: Option) -> str:
    values = option.values
    if option.name == "TS" and len(values) == 2:
        return f"TS val {values[0]} ecr {values[1]}"
    if option.name == "sack":
        return "sack " + " ".join(f"{left}:{right}" for left, right in zip(values[::2], values[1::2], strict=False))
    return " ".join([option.name, *map(str, values)])


def show_spec(packet: Packet) -> str:
    """Write what a script says."""
    body = packet.body
    head = f"{packet.direction} "
    if packet.tos is not None:
        head += f"(tos {packet.tos:#x}) "
    if isinstance(body, TcpSpec):
        text = f"{show_flags(body.flags)} {body.seq}:{body.seq + body.length}({body.length})"
        if body.ack is not None:
            text += f" ack {body.ack}"
        if body.win is not None:
            text += f" win {body.win}"
        if body.urg:
            text += f" urg {body.urg}"
        return head + text + (" <...>" if body.options is None else show_options(body.options))
    if isinstance(body, UdpSpec):
        return f"{head}udp ({body.length})"
    if isinstance(body, IcmpSpec):
        return head + icmp_name(body.type, body.code) + ("" if body.mtu is None else f" mtu {body.mtu}")
    assert isinstance(body, RawSpec)
    return f"{head}raw ({len(body.data)} bytes)"


def show_seen(seen: Seen) -> str:
    """Write what was sent."""
    size = len(seen.payload)
    bad = "" if seen.valid else " (bad checksum or length)"
    if seen.fragment:
        return f"> fragment of protocol {seen.proto}, {(seen.fragment & 0x1FFF) * 8}:{size}{bad}"
    if seen.proto == TCP:
        text = f"> {show_flags(seen.flags)} {seen.seq}:{seen.seq + size}({size})"
        if "." in show_flags(seen.flags):
            text += f" ack {seen.ack}"
        text += f" win {seen.win}" + (f" urg {seen.urg}" if seen.urg else "")
        return text + show_options(seen.options) + bad
    if seen.proto == UDP:
        return f"> udp ({size}){bad}"
    if seen.proto == ICMP:
        return f"> {icmp_name(seen.type, seen.code)}{bad}"
    return f"> protocol {seen.proto} ({size}){bad}"


def call_text(call: Call) -> str:
    """Write a call for people."""
    return f"{call.name}({', '.join(map(_show, call.args))})"


def _show(expr: Expr) -> str:
    if isinstance(expr, Dots):
        return "..."
    if isinstance(expr, Number):
        return str(expr.value)
    if isinstance(expr, Text):
        return repr(expr.value)
    if isinstance(expr, Items):
        return f"[{', '.join(map(_show, expr.items))}]"
    if isinstance(expr, Struct):
        return "{" + ", ".join(f"{name}={_show(value)}" if name else _show(value) for name, value in expr.fields) + "}"
    if isinstance(expr, Func):
        return f"{expr.name}({', '.join(map(_show, expr.args))})"
    return getattr(expr, "name", "") or f"{_show(expr.left)}|{_show(expr.right)}"  # type: ignore[union-attr]  # a Word or an Or
