"""ICMP of a host (2.6.23 net/ipv4/icmp.c; RFC 792, 1122).

Interface
    Icmp.icmp_rcv(skb)                     answers echo and timestamp requests, passes errors on to the protocols
    Icmp.icmp_send(skb, type, code, info)  tells the sender of a received packet what is wrong with it; the skb stays the caller's
    Icmp.icmp_send_port_unreach(skb)       the same for "port unreachable"
    Icmp.protocols_err[proto]              fn(inner, type, code, info): a packet of ours met an error. ``inner`` is an IcmpInner;
                                           info is the MTU of "fragmentation needed", the octet of a parameter problem, else 0
    Icmp.raw_err                           None, or the same for raw sockets: fn(inner, type, code, info)

Rules
    * Replies are allocated with plain GFP_ATOMIC: for an emergency packet they come from the reserve through PF_MEMALLOC (patch
      23), uncharged. A ping flood is a visible consumer of the reserve.
    * No error about an error, a broadcast, a fragment but the first, or a packet without a route. Of the types in icmp_ratemask
      each route may send one a second (icmp_ratelimit, in jiffies), six at once after a rest. "Fragmentation needed" is not
      limited.
    * An error quotes as much of the packet as fits 576 bytes.
    * Left out: redirects (counted, not obeyed), address masks, source quench to TCP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from kemu.kernel.errno import ENOBUFS
from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial
from kemu_net.core.skbuff import PACKET_HOST, SkBuff, skb_bytes
from kemu_net.core.uapi import IP_PMTUDISC_DONT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.dst import Dst
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.ipv4.ip_output import IpOutput
    from kemu_net.ipv4.route import RouteCache

IPPROTO_ICMP = 1
ICMP_ECHOREPLY = 0
ICMP_DEST_UNREACH = 3
ICMP_SOURCE_QUENCH = 4
ICMP_REDIRECT = 5
ICMP_ECHO = 8
ICMP_TIME_EXCEEDED = 11
ICMP_PARAMETERPROB = 12
ICMP_TIMESTAMP = 13
ICMP_TIMESTAMPREPLY = 14
NR_ICMP_TYPES = 18
NR_ICMP_UNREACH = 15

ICMP_HOST_UNREACH = 1
ICMP_PROT_UNREACH = 2
ICMP_PORT_UNREACH = 3
ICMP_FRAG_NEEDED = 4
ICMP_SR_FAILED = 5
ICMP_EXC_FRAGTIME = 1

ERROR_TYPES = frozenset((ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB))
XRLIM_BURST_FACTOR = 6
QUOTED_MTU = 576
IPTOS_PREC_INTERNETCONTROL = 0xC0
_DAY_MS = 86_400_000


@attrs.frozen
class IcmpInner:
    """The packet of ours that an ICMP error is about.

    :ivar saddr, daddr: of that packet: ``saddr`` is this host.
    :ivar transport: what is quoted of its transport header and data, at least 8 bytes.
    :ivar sender: who sent the error.
    """

    saddr: int
    daddr: int
    protocol: int
    transport: bytes
    sender: int


class Icmp:
    """ICMP of one host.

    :ivar ratelimit, ratemask: net.ipv4.icmp_ratelimit and icmp_ratemask.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, output: IpOutput, route: RouteCache) -> None:
        self.sched = kernel.sched
        self.skbs = skbs
        self.output = output
        self.route = route
        self.alloc_failed = 0
        self.echo_ignore_all = 0
        self.echo_ignore_broadcasts = 1
        self.ratelimit = HZ
        self.ratemask = 1 << ICMP_DEST_UNREACH | 1 << ICMP_SOURCE_QUENCH | 1 << ICMP_TIME_EXCEEDED | 1 << ICMP_PARAMETERPROB
        self.protocols_err: dict[int, Callable[[IcmpInner, int, int, int], object]] = {}
        self.raw_err: Callable[[IcmpInner, int, int, int], object] | None = None
        self._handlers: dict[int, Callable[[SkBuff, bytes], str | None]] = {
            ICMP_ECHO: self._echo,
            ICMP_TIMESTAMP: self._timestamp,
            ICMP_DEST_UNREACH: self._unreach,
            ICMP_SOURCE_QUENCH: self._unreach,
            ICMP_TIME_EXCEEDED: self._unreach,
            ICMP_PARAMETERPROB: self._unreach,
            ICMP_REDIRECT: _redirect,
        }
        for name in ("echo_ignore_all", "echo_ignore_broadcasts", "ratelimit", "ratemask"):
            kernel.sysctl.register(
                f"net.ipv4.icmp_{name}",
                lambda name=name: getattr(self, name),  # type: ignore[misc]  # the default binds the loop's value
                lambda value, name=name: setattr(self, name, value),
            )

    # receive

    def icmp_rcv(self, skb: SkBuff) -> None:
        """Process an ICMP packet (``icmp_rcv()``)."""
        message = skb_bytes(skb)
        if len(message) < 8 or not csum_ok(message) or message[0] > NR_ICMP_TYPES:
            self.skbs.kfree_skb(skb, "icmp: malformed")
            return
        kind = message[0]
        to_all = skb.pkt_type != PACKET_HOST or (skb.dst is not None and skb.dst.broadcast)
        if to_all and (kind not in (ICMP_ECHO, ICMP_TIMESTAMP) or self.echo_ignore_broadcasts):
            self.skbs.kfree_skb(skb, "icmp: broadcast")
            return
        handler = self._handlers.get(kind)
        self.skbs.kfree_skb(skb, handler(skb, message) if handler is not None else None)

    def _echo(self, skb: SkBuff, message: bytes) -> str | None:
        """Answer a ping (``icmp_echo()``)."""
        if not self.echo_ignore_all:
            self._reply(skb, ICMP_ECHOREPLY, message[4:])
        return None

    def _timestamp(self, skb: SkBuff, message: bytes) -> str | None:
        """Answer a request for the time of day (``icmp_timestamp()``)."""
        if len(message) < 12:
            return "icmp: malformed"
        now = (self.sched.now // 1_000_000 % _DAY_MS).to_bytes(4, "big")
        self._reply(skb, ICMP_TIMESTAMPREPLY, message[4:12] + now + now)
        return None

    def _reply(self, skb: SkBuff, kind: int, rest: bytes) -> None:
        """Send an answer to who asked (``icmp_reply()``)."""
        tos = skb.buf[skb.nh + 1] & 0x1E
        saddr = self.route.ip if skb.dst is not None and skb.dst.broadcast else skb.daddr
        self._send(saddr, skb.saddr, bytes((kind, 0)), rest, tos)

    def _unreach(self, skb: SkBuff, message: bytes) -> str | None:
        """Find out which packet of ours an error is about, and tell its protocol (``icmp_unreach()``)."""
        kind, code = message[0], message[1]
        if len(message) < 28:
            return "icmp: malformed"
        ihl = (message[8] & 0xF) << 2
        if ihl < 20:
            return "icmp: malformed"
        saddr, daddr = int.from_bytes(message[20:24], "big"), int.from_bytes(message[24:28], "big")
        info = 0
        if kind == ICMP_DEST_UNREACH:
            code &= 15
            if code == ICMP_SR_FAILED:
                return None
            if code == ICMP_FRAG_NEEDED:
                total = message[10] << 8 | message[11]
                info = self.route.ip_rt_frag_needed(saddr, daddr, total, ihl, message[6] << 8 | message[7])
                if not info:
                    return None
        elif kind == ICMP_PARAMETERPROB:
            info = message[4]
        if len(message) < 8 + ihl + 8 or not self.route.is_local(saddr):
            return "icmp: malformed"
        inner = IcmpInner(saddr, daddr, message[17], message[8 + ihl :], skb.saddr)
        if self.raw_err is not None:
            self.raw_err(inner, kind, code, info)
        handler = self.protocols_err.get(inner.protocol)
        if handler is not None:
            handler(inner, kind, code, info)
        return None

    # send

    def icmp_send_port_unreach(self, skb: SkBuff) -> None:
        """Tell the sender that nobody listens (``icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0)``)."""
        self.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0)

    def link_failure(self, skb: SkBuff) -> None:
        """Tell the sender of a packet, this host, that its next hop does not answer."""
        self.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0)

    def icmp_send(self, skb: SkBuff, kind: int, code: int, info: int) -> None:
        """Tell the sender of ``skb``, whose IP header is at ``nh``, of an error (``icmp_send()``).

        :param info: the second word of the message.
        """
        dst = skb.dst
        buf = skb.buf
        nh = skb.nh
        if dst is None or skb.pkt_type != PACKET_HOST or dst.broadcast or len(buf) < nh + 20:
            return
        if buf[nh + 6] & 0x1F or buf[nh + 7]:
            return
        if buf[nh + 9] == IPPROTO_ICMP:
            inner = nh + ((buf[nh] & 0xF) << 2)
            if len(buf) <= inner or buf[inner] in ERROR_TYPES or buf[inner] > NR_ICMP_TYPES:
                return
        to, own = int.from_bytes(buf[nh + 12 : nh + 16], "big"), int.from_bytes(buf[nh + 16 : nh + 20], "big")
        saddr = own if dst.local else self.route.ip
        back = self.route.ip_route_output(to, saddr)
        if isinstance(back, int) or not self._xrlim_allow(back, kind, code):
            return
        room = min(back.mtu, QUOTED_MTU) - 28
        tos = (buf[nh + 1] & 0x1E) | IPTOS_PREC_INTERNETCONTROL
        self._send(saddr, to, bytes((kind, code)), info.to_bytes(4, "big") + _quote(skb)[:room], tos)

    def _xrlim_allow(self, dst: Dst, kind: int, code: int) -> bool:
        """Take a token of the route's bucket, if this type is limited (``icmpv4_xrlim_allow()``, ``xrlim_allow()``)."""
        if kind > NR_ICMP_TYPES or dst.local or (kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED):
            return True
        return not self.ratemask >> kind & 1 or xrlim_allow(dst, self.sched.jiffies, self.ratelimit)

    def _send(self, saddr: int, daddr: int, kind: bytes, rest: bytes, tos: int) -> None:
        check = csum_fold(csum_partial(kind + b"\0\0" + rest))
        message = b"".join((kind, check.to_bytes(2, "big"), rest))
        self.output.ip_send_datagram(message, saddr, daddr, IPPROTO_ICMP, self._alloc, tos=tos, pmtudisc=IP_PMTUDISC_DONT)

    def _alloc(self, size: int) -> SkBuff | int:
        skb = self.skbs.alloc_skb(size + 15, GFP_ATOMIC)
        if skb is None:
            self.alloc_failed += 1
            return -ENOBUFS
        return skb


def xrlim_allow(dst: Any, now: int, timeout: int) -> bool:
    """Take a token of a route's bucket: one comes every ``timeout`` jiffies, six fit (``xrlim_allow()``)."""
    tokens = min(dst.rate_tokens + now - dst.rate_last, XRLIM_BURST_FACTOR * timeout)
    dst.rate_last = now
    allowed = bool(tokens >= timeout)
    dst.rate_tokens = tokens - timeout if allowed else tokens
    return allowed


def _redirect(_skb: SkBuff, _message: bytes) -> str:
    return "icmp: redirect"


def _quote(skb: SkBuff) -> bytes:
    """Give the packet from its IP header on, wherever its data begins now."""
    end = skb.data + skb.len - skb.data_len
    linear = skb.buf[skb.nh : end]
    return linear + skb_bytes(skb)[end - skb.data :] if skb.data_len else linear
