"""UDP (2.6.23 net/ipv4/udp.c; RFC 768).

Interface
    Udp.sock_create()                          a UdpSock, or None without memory
    Udp.bind(sk, addr, port)                   0 or -EADDRINUSE, -EADDRNOTAVAIL; port 0 chooses one
    Udp.sendto(sk, data, daddr, dport)         bytes sent or a negative errno
    Udp.recvfrom(sk, nonblock=False)           (data, saddr, sport), or a negative errno
    Udp.close(sk)

Rules
    * A datagram waits in the socket until it is read: nothing but rcvbuf and the number of sockets bounds that, because 2.6.23 has
      no udp_mem. Emergency datagrams of ordinary sockets are dropped by sk_filter() (patch 20).
    * What sock_queue_rcv_skb() refuses it has counted; here it is only freed.
    * Left out: corking, connect, multicast, MSG_PEEK, datagrams larger than the MTU (-EMSGSIZE), encapsulation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from kemu.kernel.costs import UDP_RX, UDP_TX
from kemu.kernel.errno import EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EMSGSIZE, ENOBUFS
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.core.checksum import csum_tcpudp_magic
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_HOST, SkBuff, skb_bytes
from kemu_net.core.sock import SOCK_DEAD, Proto, Sock, sock_put, sock_wfree

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.sock import Socks
    from kemu_net.core.stats import NetStats
    from kemu_net.ipv4.inet import Inet

IPPROTO_UDP = 17
SIZEOF_UDP_SOCK = 688
MAX_HEADER = 128
_LOCAL_PORTS = (32768, 61000)

_UDP = struct.Struct("!HHHH")
_unpack_udp = _UDP.unpack_from


class UdpSock(Sock):
    """``struct udp_sock``."""

    __slots__ = ()


class Udp:
    """UDP of one machine."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet, stats: NetStats) -> None:
        self.sched = kernel.sched
        self.socks = socks
        self.skbs = skbs
        self.inet = inet
        self.stats = stats
        self.prot = Proto("UDP", socks.slub.kmem_cache_create("UDP", SIZEOF_UDP_SOCK))
        self.ports: dict[int, UdpSock] = {}
        inet.inet_add_protocol(IPPROTO_UDP, self.udp_rcv)

    # sockets

    def sock_create(self) -> UdpSock | None:
        """Make a socket; None without memory."""
        sk: UdpSock | None = self.socks.sk_alloc(self.prot, GFP_KERNEL, UdpSock)
        if sk is None:
            return None
        if self.socks.sock_alloc_inode(sk):
            sock_put(sk)
            return None
        sk.sk_protocol = IPPROTO_UDP
        return sk

    def bind(self, sk: UdpSock, addr: int, port: int) -> int:
        """Bind to an own address and a port (``udp_v4_get_port()``)."""
        if not self.inet.is_local(addr):
            return -EADDRNOTAVAIL
        if not port:
            port = self._free_port()
            if not port:
                return -EADDRINUSE
        if port in self.ports:
            return -EADDRINUSE
        self.ports[port] = sk
        sk.saddr = addr
        sk.sport = port
        return 0

    def _free_port(self) -> int:
        for port in range(*_LOCAL_PORTS):
            if port not in self.ports:
                return port
        return 0

    def close(self, sk: UdpSock) -> None:
        """Close a socket; what is unread is dropped (``udp_destroy_sock()``)."""
        if self.ports.get(sk.sport) is sk:
            del self.ports[sk.sport]
        sk.sk_flags |= SOCK_DEAD
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        sock_put(sk)

    # send

    def sendto(self, sk: UdpSock, data: bytes, daddr: int, dport: int) -> int:
        """Send one datagram (``udp_sendmsg()``)."""
        length = len(data) + 8
        if length + 20 > self.inet.nic.mtu:
            return -EMSGSIZE
        if not sk.sport:
            error = self.bind(sk, sk.saddr, 0)
            if error:
                return error
        skb = self.skbs.alloc_skb(length + MAX_HEADER, self.socks.sk_allocation(sk, sk.sk_allocation))
        if skb is None:
            return -ENOBUFS
        self.sched.spend(UDP_TX)
        saddr = sk.saddr or (daddr if daddr >> 24 == 127 else self.inet.ip)
        segment = _UDP.pack(sk.sport, dport, length, 0) + data
        check = csum_tcpudp_magic(saddr, daddr, IPPROTO_UDP, segment) or 0xFFFF
        skb.buf = segment[:6] + check.to_bytes(2, "big") + segment[8:]
        skb.len = length
        sk.sk_refcnt += 1
        skb.sk = sk
        skb.destructor = sock_wfree
        sk.sk_wmem_alloc += skb.truesize
        error = self.inet.ip_send_skb(skb, saddr, daddr, IPPROTO_UDP)
        return error if error < 0 else len(data)

    # receive

    def udp_rcv(self, skb: SkBuff) -> None:
        """Find the socket of a datagram and queue it (``udp_rcv()``, ``udp_queue_rcv_skb()``)."""
        kfree_skb = self.skbs.kfree_skb
        if skb.len - skb.data_len < 8:
            kfree_skb(skb, "udp: short")
            return
        sport, dport, length, check = _unpack_udp(skb.buf, skb.h)
        if length < 8 or length > skb.len or (length < skb.len and skb.data_len):
            kfree_skb(skb, "udp: malformed")
            return
        skb.len = length
        if check and skb.ip_summed != CHECKSUM_UNNECESSARY and not self._checksum_ok(skb):
            kfree_skb(skb, "udp: checksum")
            return
        self.sched.spend(UDP_RX)
        sk = self.ports.get(dport)
        if sk is None or (sk.saddr and sk.saddr != skb.daddr):
            if skb.pkt_type == PACKET_HOST:
                self.inet.icmp.icmp_send_port_unreach(skb)
            kfree_skb(skb, "udp: no socket")
            return
        skb.seq = sport
        if self.socks.sock_queue_rcv_skb(sk, skb):
            kfree_skb(skb)

    def _checksum_ok(self, skb: SkBuff) -> bool:
        data = skb_bytes(skb)
        total = int.from_bytes(data, "big") << (8 * (len(data) & 1))
        return not (total + skb.saddr + skb.daddr + IPPROTO_UDP + len(data)) % 65535

    def recvfrom(self, sk: UdpSock, *, nonblock: bool = False) -> tuple[bytes, int, int] | int:
        """Take the oldest datagram out (``udp_recvmsg()``): (data, source address, source port), or -EAGAIN."""
        queue = sk.sk_receive_queue
        if not queue:
            if nonblock:
                return -EAGAIN
            self.sched.wait_event(sk.sk_sleep, lambda: bool(queue), ("socket", sk))
        skb = queue.popleft()
        answer = skb_bytes(skb)[8:], skb.saddr, skb.seq
        self.skbs.kfree_skb(skb)
        return answer

    def explain(self, sk: UdpSock) -> tuple[str, Any]:
        """Tell what a reader waits for."""
        return f"a datagram to port {sk.sport}", None
