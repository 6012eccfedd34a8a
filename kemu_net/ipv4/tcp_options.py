"""TCP's options: what a header's option bytes say, what ours say (2.6.23 net/ipv4/tcp_input.c, tcp_output.c, net/tcp.h).

Interface
    TcpOptionsReceived                       ``struct tcp_options_received``: sk.rx_opt; requests have one of their own
    tcp_parse_options(skb, opt, established, sysctl)    any option bytes; garbage ends the search, never raises
    tcp_fast_parse_options(skb, opt, sysctl)            the same for connections: mostly one compare
    tcp_syn_options(...)                     the option bytes of a SYN or SYN|ACK
    tcp_sack_blocks(sk)                      the SACK blocks of the next segment, a D-SACK first
    tcp_paws_check, tcp_store_ts_recent, tcp_replace_ts_recent    time stamps against old duplicates (RFC 1323)
    tcp_initial_window(...)                  the first window and its scale

Rules
    * ``sack_blocks`` belongs to the segment in hand: the slow path clears it when it is done with the segment.
    * A header with nothing but time stamps, aligned as everybody sends them, is recognised by one word; anything else is parsed
      byte by byte.
    * Seconds are those of the machine's uptime; ``ts_recent_stamp`` 0 means that ``ts_recent`` was never set.
    * Imports nothing of TCP, for a socket has its options inside.
    * Left out: MD5 signatures (RFC 2385), which no machine here sends; the option is skipped.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.ipv4.tcp_sock import TcpSock

TCPOPT_EOL: Final = 0
TCPOPT_NOP: Final = 1
TCPOPT_MSS: Final = 2
TCPOPT_WINDOW: Final = 3
TCPOPT_SACK_PERM: Final = 4
TCPOPT_SACK: Final = 5
TCPOPT_TIMESTAMP: Final = 8

TCPOLEN_TSTAMP_ALIGNED: Final = 12
TCP_MAX_WSCALE: Final = 14
TCP_NUM_SACKS: Final = 4
TSTAMP_WORD: Final = 1 << 24 | 1 << 16 | TCPOPT_TIMESTAMP << 8 | 10  # NOP, NOP, TIMESTAMP, length
TCP_PAWS_24DAYS: Final = 60 * 60 * 24 * 24
TCP_PAWS_MSL: Final = 60
TCP_PAWS_WINDOW: Final = 1

unpack_tstamp = Struct("!III").unpack_from
_unpack_pair = Struct("!II").unpack_from
_MSS = Struct("!BBH").pack
_WORD = Struct("!I").pack
_TSTAMP = Struct("!III").pack
SIGN: Final = 0x80000000
_SYN_BIT = 2 << 16


class TcpSysctls(Protocol):
    """The switches that say which options we understand; the Tcp object has them."""

    sysctl_tcp_timestamps: int
    sysctl_tcp_sack: int
    sysctl_tcp_window_scaling: int


class TcpOptionsReceived:
    """``struct tcp_options_received``: what was agreed upon, and what the segment in hand says.

    :ivar saw_tstamp: the segment in hand has time stamps: ``rcv_tsval`` and ``rcv_tsecr``.
    :ivar ts_recent: the peer's stamp that we echo, noted at second ``ts_recent_stamp``.
    :ivar tstamp_ok: both sides send time stamps. ``sack_ok``, ``wscale_ok``: the same of selective acknowledgements and scaling.
    :ivar snd_wscale: shift of the windows that the peer sends; ``rcv_wscale`` of those that we send.
    :ivar num_sacks: SACK blocks that our next segment carries, a D-SACK included (the kernel's eff_sacks).
    :ivar sack_blocks: blocks of the segment in hand, as sent; the first may be a D-SACK.
    """

    __slots__ = (
        "mss_clamp",
        "num_sacks",
        "rcv_tsecr",
        "rcv_tsval",
        "rcv_wscale",
        "sack_blocks",
        "sack_ok",
        "saw_tstamp",
        "snd_wscale",
        "ts_recent",
        "ts_recent_stamp",
        "tstamp_ok",
        "user_mss",
        "wscale_ok",
    )

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything that a connection agreed upon; ``user_mss`` is the user's and stays."""
        self.saw_tstamp = self.rcv_tsval = self.rcv_tsecr = 0
        self.ts_recent = self.ts_recent_stamp = 0
        self.tstamp_ok = self.sack_ok = self.wscale_ok = 0
        self.snd_wscale = self.rcv_wscale = 0
        self.mss_clamp = 536
        self.user_mss = getattr(self, "user_mss", 0)
        self.num_sacks = 0
        self.sack_blocks: tuple[tuple[int, int], ...] = ()

    def __repr__(self) -> str:
        """Name what was agreed upon."""
        agreed = f"tstamp {self.tstamp_ok} sack {self.sack_ok} wscale {self.snd_wscale if self.wscale_ok else '-'}"
        return f"<tcp options {agreed} rcv_wscale {self.rcv_wscale} ts_recent {self.ts_recent}>"


def tcp_parse_options(skb: SkBuff, opt: TcpOptionsReceived, established: bool, sysctl: TcpSysctls) -> None:
    """Read the options of a segment whose data is at the TCP header (``tcp_parse_options()``)."""
    buf = skb.buf
    at = skb.h + 20
    end = skb.h + (skb.flags >> 28 << 2)
    opening = skb.flags & _SYN_BIT and not established
    opt.saw_tstamp = 0
    while at < end:
        kind = buf[at]
        if kind == TCPOPT_NOP:
            at += 1
            continue
        if kind == TCPOPT_EOL or at + 1 >= end:
            return
        size = buf[at + 1]
        if size < 2 or at + size > end:
            return
        if kind == TCPOPT_TIMESTAMP:
            if size == 10 and (opt.tstamp_ok if established else sysctl.sysctl_tcp_timestamps):
                opt.saw_tstamp = 1
                opt.rcv_tsval, opt.rcv_tsecr = _unpack_pair(buf, at + 2)
        elif kind == TCPOPT_SACK:
            if opt.sack_ok and size >= 10 and not (size - 2) % 8:
                opt.sack_blocks = tuple(_unpack_pair(buf, block) for block in range(at + 2, at + size, 8))
        elif opening:
            _parse_opening(opt, kind, size, int.from_bytes(buf[at + 2 : at + size], "big"), sysctl)
        at += size


def _parse_opening(opt: TcpOptionsReceived, kind: int, size: int, value: int, sysctl: TcpSysctls) -> None:
    """Take an option that only a SYN may carry."""
    if kind == TCPOPT_MSS:
        if size == 4 and value:
            opt.mss_clamp = min(value, opt.user_mss) if opt.user_mss else value
    elif kind == TCPOPT_WINDOW:
        if size == 3 and sysctl.sysctl_tcp_window_scaling:
            opt.wscale_ok = 1
            opt.snd_wscale = min(value, TCP_MAX_WSCALE)
    elif kind == TCPOPT_SACK_PERM and size == 2 and sysctl.sysctl_tcp_sack:
        opt.num_sacks = 0
        opt.sack_ok = 1


def tcp_fast_parse_options(skb: SkBuff, opt: TcpOptionsReceived, sysctl: TcpSysctls) -> bool:
    """Read the options of a connection's segment (``tcp_fast_parse_options()``); False when there are none."""
    offset = skb.flags >> 28
    if offset == 5:
        opt.saw_tstamp = 0
        return False
    if offset == 8 and opt.tstamp_ok:
        word, tsval, tsecr = unpack_tstamp(skb.buf, skb.h + 20)
        if word == TSTAMP_WORD:
            opt.saw_tstamp = 1
            opt.rcv_tsval = tsval
            opt.rcv_tsecr = tsecr
            return True
    tcp_parse_options(skb, opt, True, sysctl)
    return True


# what we send


def tcp_syn_options(mss: int, tstamp: tuple[int, int] | None, sack: int, wscale: int | None) -> bytes:
    """Build the options of a SYN or SYN|ACK (``tcp_syn_build_options()``).

    :param tstamp: our clock and the stamp that it echoes; None: no time stamps.
    :param wscale: the shift of our windows; None: no scaling.
    """
    options = _MSS(TCPOPT_MSS, 4, mss)
    if tstamp is not None:
        head = TCPOPT_SACK_PERM << 24 | 2 << 16 if sack else 1 << 24 | 1 << 16
        options += _TSTAMP(head | TCPOPT_TIMESTAMP << 8 | 10, *tstamp)
    elif sack:
        options += _WORD(1 << 24 | 1 << 16 | TCPOPT_SACK_PERM << 8 | 2)
    if wscale is not None:
        options += _WORD(1 << 24 | TCPOPT_WINDOW << 16 | 3 << 8 | wscale)
    return options


def tcp_eff_sacks(sk: TcpSock) -> None:
    """Count the blocks that the next segment carries: four, or three next to time stamps."""
    opt = sk.rx_opt
    opt.num_sacks = min(len(sk.selective_acks) + (sk.duplicate_sack is not None), TCP_NUM_SACKS - opt.tstamp_ok)


def tcp_sack_blocks(sk: TcpSock) -> list[tuple[int, int]]:
    """Give the blocks of the segment that is being made, and forget the D-SACK, which is told once."""
    blocks = sk.selective_acks
    if sk.duplicate_sack is not None:
        blocks = [sk.duplicate_sack, *blocks]
        sk.duplicate_sack = None
    count = sk.rx_opt.num_sacks
    tcp_eff_sacks(sk)
    return blocks[:count]


# time stamps


def tcp_store_ts_recent(opt: TcpOptionsReceived, seconds: int) -> None:
    """Echo this segment's stamp from now on (``tcp_store_ts_recent()``)."""
    opt.ts_recent = opt.rcv_tsval
    opt.ts_recent_stamp = seconds


def tcp_replace_ts_recent(sk: TcpSock, seq: int, seconds: int) -> None:
    """Note the stamp of a segment that reaches the last acknowledgement (``tcp_replace_ts_recent()``), unless it is older."""
    opt = sk.rx_opt
    if (
        opt.saw_tstamp
        and not (sk.rcv_wup - seq) & SIGN
        and (not (opt.rcv_tsval - opt.ts_recent) & SIGN or seconds >= opt.ts_recent_stamp + TCP_PAWS_24DAYS)
    ):
        tcp_store_ts_recent(opt, seconds)


def tcp_paws_check(opt: TcpOptionsReceived, rst: int, seconds: int) -> bool:
    """Tell whether a segment is an old duplicate by its stamp (``tcp_paws_check()``).

    After 24 days without a segment any stamp is right; a reset's is right after a minute.
    """
    if not (opt.rcv_tsval - opt.ts_recent) & SIGN or seconds >= opt.ts_recent_stamp + TCP_PAWS_24DAYS:
        return False
    return not (rst and seconds >= opt.ts_recent_stamp + TCP_PAWS_MSL)


# windows


def tcp_win_from_space(space: int) -> int:
    """Give the part of a buffer that may be advertised (``tcp_win_from_space()`` with tcp_adv_win_scale 2)."""
    return space - (space >> 2)


def tcp_initial_window(space: int, mss: int, clamp: int, wscale_ok: int, largest: int) -> tuple[int, int, int]:
    """Choose the first window (``tcp_select_initial_window()``): window, clamp, and the shift of later windows.

    :param clamp: the most that the user wants, 0 for no limit.
    :param largest: the most that the buffer may grow to: max(tcp_rmem[2], rmem_max).
    """
    if not clamp:
        clamp = 65535 << TCP_MAX_WSCALE
    window = min(clamp, max(space, 0))
    if window > mss:
        window = window // mss * mss
    shift = 0
    if wscale_ok:
        largest = min(largest, clamp)
        while largest > 65535 and shift < TCP_MAX_WSCALE:
            largest >>= 1
            shift += 1
    if mss > 1 << shift:
        few = 2 if mss > 1460 * 3 else 3 if mss > 1460 else 4
        window = min(window, few * mss)
    return window, min(65535 << shift, clamp), shift
