"""Reassembly of IPv4 packets (2.6.23 net/ipv4/ip_fragment.c; RFC 791, 3.2).

Interface
    IpFrag.ip_defrag(skb, user)   take a fragment, its data at the IP header (``nh``): give the whole packet, likewise, or None
    IP_DEFRAG_LOCAL_DELIVER, IP_DEFRAG_CONNTRACK_IN, ...   who asks; the fragments of each are apart
    sysctls net.ipv4.ipfrag_low_thresh, ipfrag_time, ipfrag_max_dist, ipfrag_secret_interval (high: inet_reserves.py)

Rules
    * What is common with IPv6 is in core/inet_frag.py: memory, overlaps, evictor.
    * A datagram is given up after 30 s; its sender is told if the first fragment had come (ICMP time exceeded).
    * A fragment that is not the last is cut to a multiple of 8 bytes. A datagram of more than 65535 bytes is dropped when the
      fragment that would complete it comes.
    * If more than ipfrag_max_dist fragments of one sender came between two of a datagram, its identity has probably come round:
      what is here is dropped, and the new fragment begins anew.
    * A packet put together has the header of its first fragment, with its length and no offset; its checksum is the old one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ
from kemu_net.core.inet_frag import COMPLETE, FragQueue, InetFrags
from kemu_net.core.skbuff import CHECKSUM_NONE, CHECKSUM_UNNECESSARY, SkBuff
from kemu_net.ipv4.icmp import ICMP_EXC_FRAGTIME, ICMP_TIME_EXCEEDED
from kemu_net.ipv4.inetpeer import InetPeer, InetPeers

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.ipv4.icmp import Icmp

SIZEOF_IPQ = 144  # struct ipq, x86_64
IP_FRAG_TIME = 30 * HZ
MAX_DIST = 64
IP_MAX = 65535

IP_DEFRAG_LOCAL_DELIVER = 0
IP_DEFRAG_CONNTRACK_IN = 2
IP_DEFRAG_CONNTRACK_OUT = 3


class IpFrag(InetFrags):
    """The unfinished IPv4 packets of one host.

    :ivar icmp: tells senders; set by Inet.
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, slub: Slub) -> None:
        super().__init__(kernel, skbs, slub, SIZEOF_IPQ, IP_FRAG_TIME)
        self.icmp: Icmp | None = None
        self.max_dist = MAX_DIST
        self.secret_interval = 600 * HZ
        self.peers = InetPeers(kernel, slub)
        register = kernel.sysctl.register
        register("net.ipv4.ipfrag_low_thresh", lambda: self.low_thresh, lambda value: setattr(self, "low_thresh", value))
        register("net.ipv4.ipfrag_time", lambda: self.timeout // HZ, lambda value: setattr(self, "timeout", value * HZ))
        register(
            "net.ipv4.ipfrag_secret_interval",
            lambda: self.secret_interval // HZ,
            lambda value: setattr(self, "secret_interval", value * HZ),
        )
        register("net.ipv4.ipfrag_max_dist", lambda: self.max_dist, self._set_max_dist)

    def _set_max_dist(self, value: int) -> int | None:
        if value < 0:
            return -22  # -EINVAL: proc_dointvec_minmax with a minimum of 0
        self.max_dist = value
        return None

    def ip_defrag(self, skb: SkBuff, user: int) -> SkBuff | None:
        """Take a fragment; give the packet that it completes (``ip_defrag()``). The skb is gone in any case."""
        self.reasm_reqds += 1
        self.evictor()
        nh = skb.nh
        header = skb.buf[nh : nh + 20]
        key = (header[4:6], header[12:20], header[9], user)
        queue = self.find(key)
        if queue is None:
            self.reasm_fails += 1
            self.skbs.kfree_skb(skb, "fragment: no memory")
            return None
        if not queue.fragments and queue.peer is None and self.max_dist:
            queue.peer = self.peers.inet_getpeer(int.from_bytes(header[12:16], "big"))
        if not self._ip_frag_queue(queue, skb):
            self.skbs.kfree_skb(skb, "fragment: refused")
            return None
        if not self.complete(queue):
            return None
        return self._reasm(queue)

    def _ip_frag_queue(self, queue: FragQueue, skb: SkBuff) -> bool:
        """Find out where a fragment belongs, and enter it (``ip_frag_queue()``)."""
        if queue.last_in & COMPLETE:
            return False
        if self._too_far(queue):
            self._reinit(queue)
        nh = skb.nh
        buf = skb.buf
        field = buf[nh + 6] << 8 | buf[nh + 7]
        offset = (field & 0x1FFF) << 3
        ihl = (buf[nh] & 0xF) << 2
        end = offset + skb.len - ihl
        more = bool(field & 0x2000)
        if more and end & 7:
            end &= ~7
            if skb.ip_summed != CHECKSUM_UNNECESSARY:
                skb.ip_summed = CHECKSUM_NONE
        skb.data += ihl
        skb.len -= ihl
        return self.insert(queue, skb, offset, end, not more)

    def _too_far(self, queue: FragQueue) -> bool:
        """Tell whether too many other fragments of the sender came since the last of this datagram (``ip_frag_too_far()``)."""
        peer: InetPeer | None = queue.peer
        if peer is None or not self.max_dist:
            return False
        start = queue.rid
        peer.rid += 1
        queue.rid = peer.rid
        far = bool(queue.fragments) and peer.rid - start > self.max_dist
        self.reasm_fails += far
        return far

    def _reinit(self, queue: FragQueue) -> None:
        """Begin a datagram anew (``ip_frag_reinit()``)."""
        self.timers.mod_timer(queue.timer, self.sched.jiffies + self.timeout)
        self.drop_fragments(queue)
        queue.last_in = queue.len = queue.meat = 0

    def _reasm(self, queue: FragQueue) -> SkBuff | None:
        """Make the packet (``ip_frag_reasm()``); None when it is too long, or without memory."""
        self.kill(queue)
        first = queue.fragments[0]
        ihl = (first.buf[first.nh] & 0xF) << 2
        total = ihl + queue.len
        head = self.glue(queue) if total <= IP_MAX else None
        if head is None:
            self.reasm_fails += 1
            self.destroy(queue)
            return None
        self.destroy(queue)
        nh = head.nh
        buf = head.buf
        header = buf[nh : nh + 2] + total.to_bytes(2, "big") + buf[nh + 4 : nh + 6] + b"\0\0" + buf[nh + 8 : nh + ihl]
        head.buf = buf[:nh] + header + buf[nh + ihl :]
        head.data = nh
        head.len += ihl
        return head

    def release_peer(self, queue: FragQueue) -> None:
        """Let go of the sender."""
        if queue.peer is not None:
            self.peers.inet_putpeer(queue.peer)
            queue.peer = None

    def time_exceeded(self, skb: SkBuff) -> None:
        """Tell the sender that a fragment did not come (``icmp_send(head, ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0)``)."""
        if self.icmp is not None:
            self.icmp.icmp_send(skb, ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0)

    def close(self) -> None:
        """Free everything, senders too."""
        super().close()
        self.peers.close()
