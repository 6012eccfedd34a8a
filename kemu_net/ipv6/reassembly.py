"""Reassembly of IPv6 packets (2.6.23 net/ipv6/reassembly.c; RFC 2460, 4.5).

Interface
    Ip6Frag.ipv6_frag_rcv(skb, nhoff)   the fragment header is at ``h``: the whole packet, its next header at ``h``; None while
                                        fragments are missing, and then the skb is taken
    sysctls net.ipv6.ip6frag_low_thresh, ip6frag_time   (ip6frag_high_thresh: ipv4/inet_reserves.py)

Rules
    * What is common with IPv4 is in core/inet_frag.py. Overlaps are trimmed here too: RFC 5722 is younger.
    * A datagram is given up after 60 s; its sender is told if the first fragment had come.
    * A fragment that is not the last and no multiple of 8, or that ends above 65535, is answered with a parameter problem.
    * Left out: the distance rule (IPv4 only in 2.6.23), jumbograms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ
from kemu_net.core.inet_frag import FragQueue, InetFrags
from kemu_net.core.skb_trim import pskb_may_pull, pskb_pull
from kemu_net.ipv6.addr import IPV6_HLEN, IPV6_MAXPLEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff

SIZEOF_FRAG_QUEUE = 168  # struct frag_queue, x86_64
IP6_FRAG_TIME = 60 * HZ
FRAG_HLEN = 8
ICMPV6_TIME_EXCEED = 3
ICMPV6_EXC_FRAGTIME = 1
ICMPV6_PARAMPROB = 4
ICMPV6_HDR_FIELD = 0


class Ip6Frag(InetFrags):
    """The unfinished IPv6 packets of one host.

    :ivar icmpv6_send: tells senders; set by Inet6.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, slub: Slub) -> None:
        super().__init__(kernel, skbs, slub, SIZEOF_FRAG_QUEUE, IP6_FRAG_TIME)
        self.icmpv6_send: Callable[[SkBuff, int, int, int], None] | None = None
        register = kernel.sysctl.register
        register("net.ipv6.ip6frag_low_thresh", lambda: self.low_thresh, lambda value: setattr(self, "low_thresh", value))
        register("net.ipv6.ip6frag_time", lambda: self.timeout // HZ, lambda value: setattr(self, "timeout", value * HZ))

    def ipv6_frag_rcv(self, skb: SkBuff, nhoff: int) -> tuple[SkBuff, int] | None:
        """Take a fragment; give the packet that it completes, and where its next header is named (``ipv6_frag_rcv()``)."""
        self.reasm_reqds += 1
        at = skb.h
        nh = skb.nh
        if not skb.buf[nh + 4] and not skb.buf[nh + 5]:
            self._refuse(skb, at - nh)
            return None
        if not pskb_may_pull(self.skbs, skb, at - skb.data + FRAG_HLEN):
            self._refuse(skb, at - nh)
            return None
        header = skb.buf[at : at + FRAG_HLEN]
        field = header[2] << 8 | header[3]
        if not field & 0xFFF9:
            self.reasm_oks += 1
            skb.h = at + FRAG_HLEN
            return skb, at - nh
        self.evictor()
        queue = self.find((header[4:8], skb.buf[nh + 8 : nh + 40]))
        if queue is None:
            self.reasm_fails += 1
            self.skbs.kfree_skb(skb, "fragment: no memory")
            return None
        if not self._ip6_frag_queue(queue, skb, field, nhoff) or not self.complete(queue):
            return None
        return self._reasm(queue)

    def _refuse(self, skb: SkBuff, pointer: int) -> None:
        """Answer with a parameter problem and free the packet (``icmpv6_param_prob()``)."""
        if self.icmpv6_send is not None:
            self.icmpv6_send(skb, ICMPV6_PARAMPROB, ICMPV6_HDR_FIELD, pointer)
        self.skbs.kfree_skb(skb, "ipv6: malformed")

    def _ip6_frag_queue(self, queue: FragQueue, skb: SkBuff, field: int, nhoff: int) -> bool:
        """Find out where a fragment belongs, and enter it (``ip6_frag_queue()``)."""
        nh, at = skb.nh, skb.h
        offset = field & ~7
        payload = skb.buf[nh + 4] << 8 | skb.buf[nh + 5]
        end = offset + payload - (at + FRAG_HLEN - nh - IPV6_HLEN)
        more = bool(field & 1)
        if end > IPV6_MAXPLEN:
            self._refuse(skb, at + 2 - nh)
            return False
        if more and end & 7:
            self._refuse(skb, 4)
            return False
        if end < offset or not pskb_pull(self.skbs, skb, at + FRAG_HLEN - skb.data):
            self.reasm_fails += 1
            self.skbs.kfree_skb(skb, "fragment: refused")
            return False
        if not self.insert(queue, skb, offset, end, not more):
            self.reasm_fails += 1
            self.skbs.kfree_skb(skb, "fragment: refused")
            return False
        if not offset:
            queue.nhoff = nhoff
        return True

    def _reasm(self, queue: FragQueue) -> tuple[SkBuff, int] | None:
        """Make the packet, the fragment header taken out of it (``ip6_frag_reasm()``)."""
        self.kill(queue)
        first = queue.fragments[0]
        before = first.h - first.nh
        payload = before - IPV6_HLEN + queue.len
        head = self.glue(queue) if payload <= IPV6_MAXPLEN else None
        nhoff = queue.nhoff
        if head is None:
            self.reasm_fails += 1
            self.destroy(queue)
            return None
        self.destroy(queue)
        nh, at = head.nh, head.h
        headers = bytearray(head.buf[nh:at])
        headers[4:6] = payload.to_bytes(2, "big")
        headers[nhoff] = head.buf[at]
        head.buf = head.buf[:nh] + bytes(headers) + head.buf[at + FRAG_HLEN :]
        head.data = nh
        head.len += before
        return head, nhoff

    def time_exceeded(self, skb: SkBuff) -> None:
        """Tell the sender that a fragment did not come."""
        if self.icmpv6_send is not None:
            self.icmpv6_send(skb, ICMPV6_TIME_EXCEED, ICMPV6_EXC_FRAGTIME, 0)
