"""What connection tracking knows of protocols: states and how long they last (2.6.23 net/netfilter/nf_conntrack_proto_*.c).

Interface
    tuple_of(skb)          a packet's tuple, or None when it has none
    invert(tuple_)         the tuple of answers
    tcp_event, tcp_next    a step of the small table of TCP's states
    TCP_TIMEOUTS, UDP_TIMEOUT, ...   seconds

Rules
    * A tuple is (source, destination, protocol, source port, destination port); for ICMP the ports are the identifier and
      type * 256 + code; for other protocols 0.
    * A step may also come to INVALID (nothing is known of the packet) or IGNORE (it changes nothing).
    * Left out: window tracking; checksums, which the sockets look at; errors that belong to a connection (RELATED); helpers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu_net.core.skbuff import skb_bytes, skb_headlen

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

    Tuple = tuple[int, int, int, int, int]

IPPROTO_ICMP: Final = 1
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17

NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE = range(9)
IGNORE: Final = -1
INVALID: Final = -2

#: Seconds per state.
TCP_TIMEOUTS: Final = {
    SYN_SENT: 120,
    SYN_RECV: 60,
    ESTABLISHED: 432_000,
    FIN_WAIT: 120,
    CLOSE_WAIT: 60,
    LAST_ACK: 30,
    TIME_WAIT: 120,
    CLOSE: 10,
}
UDP_TIMEOUT: Final = 30
UDP_STREAM_TIMEOUT: Final = 180
ICMP_TIMEOUT: Final = 30
GENERIC_TIMEOUT: Final = 600

_ICMP_ANSWER: Final = {8: 0, 13: 14, 15: 16, 17: 18}
_ICMP_INVERSE: Final = _ICMP_ANSWER | {answer: question for question, answer in _ICMP_ANSWER.items()}

_AFTER_FIN = {SYN_RECV: FIN_WAIT, ESTABLISHED: FIN_WAIT, FIN_WAIT: LAST_ACK, CLOSE_WAIT: LAST_ACK, LAST_ACK: LAST_ACK}
_AFTER_ACK = {ESTABLISHED: ESTABLISHED, FIN_WAIT: CLOSE_WAIT, CLOSE_WAIT: CLOSE_WAIT, LAST_ACK: TIME_WAIT}
_STAY = {TIME_WAIT: TIME_WAIT, CLOSE: CLOSE}

#: (direction, event) -> state -> next state. What is not named is INVALID from NONE and SYN_SENT, and otherwise IGNORE.
_STEPS: Final[dict[tuple[int, str], dict[int, int]]] = {
    (0, "syn"): {NONE: SYN_SENT, SYN_SENT: SYN_SENT, TIME_WAIT: SYN_SENT, CLOSE: SYN_SENT},
    (1, "syn"): {},
    (0, "synack"): {},
    (1, "synack"): {SYN_SENT: SYN_RECV, SYN_RECV: SYN_RECV},
    (0, "fin"): _AFTER_FIN | _STAY,
    (1, "fin"): _AFTER_FIN | _STAY,
    (0, "ack"): _AFTER_ACK | _STAY | {NONE: ESTABLISHED, SYN_RECV: ESTABLISHED},
    (1, "ack"): _AFTER_ACK | _STAY | {SYN_SENT: IGNORE, SYN_RECV: SYN_RECV},
    (0, "rst"): dict.fromkeys(range(SYN_SENT, CLOSE + 1), CLOSE),
    (1, "rst"): dict.fromkeys(range(SYN_SENT, CLOSE + 1), CLOSE),
    (0, "none"): {},
    (1, "none"): {},
}


def tcp_event(flags: int) -> str:
    """Give the one flag that counts; a FIN, an RST or an ACK hides what else is there in that order (``get_conntrack_index()``)."""
    if flags & 0x04:
        return "rst"
    if flags & 0x02:
        return "synack" if flags & 0x10 else "syn"
    if flags & 0x01:
        return "fin"
    return "ack" if flags & 0x10 else "none"


def tcp_next(direction: int, event: str, state: int) -> int:
    """Take a step: the next state, IGNORE or INVALID."""
    if event == "none" or (direction and event == "syn"):
        return INVALID
    found = _STEPS[direction, event].get(state)
    if found is not None:
        return found
    return INVALID if state <= SYN_SENT else IGNORE


def transport(skb: SkBuff, count: int) -> bytes:
    """Read the first bytes behind the IP header; fewer, if there are fewer (``skb_header_pointer()``)."""
    at = (skb.buf[skb.nh] & 0xF) << 2
    if skb_headlen(skb) >= at + count:
        start = skb.nh + at
        return skb.buf[start : start + count]
    return skb_bytes(skb, at)[:count]


def tuple_of(skb: SkBuff) -> Tuple | None:
    """Give the tuple of a packet, its data at the IP header (``nf_ct_get_tuple()``); None: it has none."""
    nh = skb.nh
    proto = skb.buf[nh + 9]
    saddr, daddr = int.from_bytes(skb.buf[nh + 12 : nh + 16], "big"), int.from_bytes(skb.buf[nh + 16 : nh + 20], "big")
    if proto in (IPPROTO_TCP, IPPROTO_UDP):
        head = transport(skb, 14 if proto == IPPROTO_TCP else 8)
        if len(head) < 8:
            return None
        return saddr, daddr, proto, head[0] << 8 | head[1], head[2] << 8 | head[3]
    if proto == IPPROTO_ICMP:
        head = transport(skb, 8)
        if len(head) < 8 or head[0] not in _ICMP_INVERSE:
            return None
        return saddr, daddr, proto, head[4] << 8 | head[5], head[0] << 8 | head[1]
    return saddr, daddr, proto, 0, 0


def invert(tuple_: Tuple) -> Tuple:
    """Give the tuple of the answers to a tuple (``nf_ct_invert_tuple()``)."""
    saddr, daddr, proto, sport, dport = tuple_
    if proto == IPPROTO_ICMP:
        return daddr, saddr, proto, sport, _ICMP_INVERSE[dport >> 8] << 8 | dport & 0xFF
    return daddr, saddr, proto, dport, sport


def begins(tuple_: Tuple) -> bool:
    """Tell whether an ICMP packet may begin a connection: only a question may."""
    return tuple_[2] != IPPROTO_ICMP or tuple_[4] >> 8 in _ICMP_ANSWER
