"""UDP (2.6.23 net/ipv4/udp.c; RFC 768).

Interface
    Udp.sock_create()                             a UdpSock, or None without memory
    Udp.bind(sk, addr, port)                      0 or -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL; port 0 chooses one
    Udp.connect(sk, daddr, dport), disconnect(sk) choose the peer, or none
    Udp.sendmsg(sk, data, name, ...), sendto(sk, data, daddr, dport)   bytes sent or a negative errno
    Udp.push_pending(sk)                          send what a corked socket has gathered
    Udp.close(sk)
    receiving: udp_recv.py; ports: udp_hash.py

Rules
    * The checksum is made here, and a datagram above the path's MTU is cut by IP, one skb per fragment.
    * A corked datagram (UDP_CORK, MSG_MORE) is gathered as bytes; its skbs are allocated when it is sent.
    * Left out: multicast, encapsulation, UDP-Lite, control messages of senders.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from kemu.kernel.costs import UDP_TX
from kemu.kernel.errno import (
    EACCES,
    EADDRNOTAVAIL,
    EAGAIN,
    EDESTADDRREQ,
    EINVAL,
    EMSGSIZE,
    ENOBUFS,
    EOPNOTSUPP,
)
from kemu.mm.gfp import GFP_KERNEL
from kemu_net.core.checksum import csum_tcpudp_magic
from kemu_net.core.datagram import sock_alloc_send_skb
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.sock import SOCK_BROADCAST, SOCK_DEAD, SOCK_NOSPACE, Proto, sock_put
from kemu_net.core.uapi import INADDR_BROADCAST, INADDR_LOOPBACK, MSG_MORE, MSG_OOB, SockaddrIn
from kemu_net.ipv4.ip_sockglue import ip_local_error, purge_error_queue
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_ESTABLISHED
from kemu_net.ipv4.udp_hash import UdpSock
from kemu_net.ipv4.udp_recv import IPPROTO_UDP, UdpRecv

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Socks
    from kemu_net.core.stats import NetStats
    from kemu_net.ipv4.inet import Inet

__all__ = ["IPPROTO_UDP", "Udp", "UdpSock"]

SIZEOF_UDP_SOCK = 688
_MAX_DATAGRAM = 65535 - 20 - 8

_pack_udp = struct.Struct("!HHHH").pack


class Udp(UdpRecv):
    """UDP of one machine."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet, stats: NetStats) -> None:
        super().__init__(kernel, socks, skbs, inet)
        self.stats = stats
        self.prot = Proto("UDP", socks.slub.kmem_cache_create("UDP", SIZEOF_UDP_SOCK))
        inet.inet_add_protocol(IPPROTO_UDP, self.udp_rcv)
        inet.protocols_err[IPPROTO_UDP] = self.udp_err

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
        """Bind to an own address and a port (``inet_bind()``, ``udp_v4_get_port()``)."""
        if not self.inet.is_local(addr) and not self._is_broadcast(addr) and not sk.freebind:
            return -EADDRNOTAVAIL
        if sk.sport:
            return -EINVAL
        sk.saddr = addr
        err = self.udp_v4_get_port(sk, port)
        if err:
            sk.saddr = 0
            return err
        sk.bind_addr = addr
        sk.bind_port = port
        return 0

    def connect(self, sk: UdpSock, daddr: int, dport: int) -> int:
        """Choose the peer: it alone is heard, and a send needs no address (``ip4_datagram_connect()``)."""
        if not sk.sport and self.udp_v4_get_port(sk, 0):
            return -EAGAIN
        dst = self.inet.ip_route_output(daddr or INADDR_LOOPBACK, sk.saddr)
        if isinstance(dst, int):
            return dst
        if dst.broadcast and not sk.sk_flags & SOCK_BROADCAST:
            return -EACCES
        if not sk.saddr:
            sk.saddr = dst.saddr
        sk.daddr, sk.dport = daddr or INADDR_LOOPBACK, dport
        sk.sk_state = TCP_ESTABLISHED
        sk_dst_set(sk, dst)
        return 0

    def disconnect(self, sk: UdpSock) -> None:
        """Take the peer off (``udp_disconnect()``); an address or a port that bind() did not choose goes too."""
        sk.sk_state = TCP_CLOSE
        sk.daddr = sk.dport = 0
        sk_dst_set(sk, None)
        sk.saddr = sk.bind_addr
        if not sk.bind_port:
            self.udp_unhash(sk)
            sk.sport = 0

    def close(self, sk: UdpSock) -> None:
        """Close a socket; what is unread, and what is gathered, is dropped (``udp_destroy_sock()``)."""
        self.udp_unhash(sk)
        sk.sport = 0
        sk.sk_flags |= SOCK_DEAD
        sk.pending = None
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        purge_error_queue(self.skbs, sk)
        sock_put(sk)

    # send

    def sendto(self, sk: UdpSock, data: bytes, daddr: int, dport: int) -> int:
        """Send one datagram without waiting for room, for users inside the kernel: its length or a negative errno."""
        return self.sendmsg(sk, data, SockaddrIn(daddr, dport), 0, True)

    def sendmsg(self, sk: UdpSock, data: bytes, name: Any, flags: int, nonblock: bool) -> int:
        """Send one datagram, or gather a part of it (``udp_sendmsg()``): its length or a negative errno."""
        err = self._udp_sendmsg(sk, data, name, flags, nonblock)
        if err >= 0:
            return len(data)
        if err == -ENOBUFS or sk.sk_socket_flags & SOCK_NOSPACE:
            self.mib.sndbuf_errors += 1
        return err

    def _udp_sendmsg(self, sk: UdpSock, data: bytes, name: Any, flags: int, nonblock: bool) -> int:
        if len(data) > 0xFFFF:
            return -EMSGSIZE
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        if not sk.sport and self.udp_v4_get_port(sk, 0):
            return -EAGAIN
        if sk.pending is None:
            if name is not None:
                if not isinstance(name, SockaddrIn) or not name.port:
                    return -EINVAL
                daddr, dport = name.addr or INADDR_LOOPBACK, name.port
            elif sk.sk_state != TCP_ESTABLISHED:
                return -EDESTADDRREQ
            else:
                daddr, dport = sk.daddr, sk.dport
            dst = self.inet.ip_route_output(daddr, sk.saddr)
            if isinstance(dst, int):
                return dst
            if dst.broadcast and not sk.sk_flags & SOCK_BROADCAST:
                return -EACCES
            sk.pending = (dst.saddr, daddr, dport, [])
        gathered = sk.pending[3]
        if sum(map(len, gathered)) + len(data) > _MAX_DATAGRAM:
            _saddr, daddr, dport, _pieces = sk.pending
            ip_local_error(self.skbs, sk, EMSGSIZE, SockaddrIn(daddr, dport), self.inet.nic.mtu)
            sk.pending = None
            return -EMSGSIZE
        gathered.append(data)
        if sk.corkflag or flags & MSG_MORE:
            return 0
        return self.push_pending(sk, nonblock)

    def push_pending(self, sk: UdpSock, nonblock: bool = False) -> int:
        """Send what is gathered (``udp_push_pending_frames()``): 0 or a negative errno."""
        if sk.pending is None:
            return 0
        saddr, daddr, dport, pieces = sk.pending
        sk.pending = None
        self.sched.spend(UDP_TX)
        payload = b"".join(pieces)
        segment = _pack_udp(sk.sport, dport, len(payload) + 8, 0) + payload
        if not sk.sk_no_check:
            check = csum_tcpudp_magic(saddr, daddr, IPPROTO_UDP, segment) or 0xFFFF
            segment = segment[:6] + check.to_bytes(2, "big") + segment[8:]

        def alloc(size: int) -> SkBuff | int:
            return sock_alloc_send_skb(sk, size, nonblock)

        err = self.inet.ip_send_datagram(
            segment,
            saddr,
            daddr,
            IPPROTO_UDP,
            alloc,
            tos=sk.tos,
            ttl=64 if sk.uc_ttl < 0 else sk.uc_ttl,
            pmtudisc=sk.pmtudisc,
        )
        if err > 0:
            err = -ENOBUFS if sk.recverr else 0  # a full queue below is told only to those who ask for errors
        if not err:
            self.mib.out_datagrams += 1
        return err

    def _is_broadcast(self, daddr: int) -> bool:
        """Tell whether an address means all hosts of the link."""
        route = self.inet.route
        return daddr in (INADDR_BROADCAST, route.broadcast)

    # for people

    def explain(self, sk: UdpSock) -> tuple[str, Any]:
        """Tell what a reader waits for."""
        return f"a datagram to port {sk.sport}", None
