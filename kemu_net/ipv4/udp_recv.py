"""UDP's way in (2.6.23 net/ipv4/udp.c: udp_rcv(), udp_err(), udp_recvmsg()).

Interface
    UdpRecv.udp_rcv(skb)                          the handler of IPPROTO_UDP
    UdpRecv.udp_err(inner, kind, code, info)      an ICMP error about a datagram of ours (icmp.py)
    UdpRecv.recvmsg(sk, size, flags, nonblock)    Msg or a negative errno
    UdpRecv.recvfrom(sk, nonblock=False)          (data, source address, source port) or a negative errno

Rules
    * What the checksum says is asked when the datagram is read, or before a program's filter sees it: until then a broken one
      takes room. It is lost then, and the reader waits for the next. What the NIC has checked is never asked.
    * A datagram waits in the socket until it is read: nothing but rcvbuf and the number of sockets bounds that, because 2.6.23 has
      no udp_mem. Emergency datagrams of ordinary sockets are dropped by sk_filter() (patch 20).
    * What sock_queue_rcv_skb() refuses it has counted; here it is only freed, and counted in the MIB.
    * ``skb.seq`` of a queued datagram is its source port.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kemu.kernel.costs import UDP_RX
from kemu.kernel.errno import EAGAIN, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.datagram import skb_recv_datagram
from kemu_net.core.skb_checksum import skb_checksum_complete
from kemu_net.core.skb_trim import pskb_trim
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_HOST, SkBuff, skb_bytes
from kemu_net.core.uapi import IP_PMTUDISC_DONT, MSG_ERRQUEUE, MSG_PEEK, MSG_TRUNC, Msg, SockaddrIn
from kemu_net.ipv4.ip_sockglue import (
    ICMP_DEST_UNREACH,
    ICMP_FRAG_NEEDED,
    SO_EE_ORIGIN_ICMP,
    ExtendedErr,
    icmp_error_of,
    ip_cmsg_recv,
    ip_icmp_error,
    ip_recv_error,
)
from kemu_net.ipv4.tcp_states import TCP_ESTABLISHED
from kemu_net.ipv4.udp_hash import UdpHash, UdpSock

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.sock import Socks
    from kemu_net.ipv4.icmp import IcmpInner
    from kemu_net.ipv4.inet import Inet

IPPROTO_UDP = 17
_unpack_udp = struct.Struct("!HHHH").unpack_from


class UdpMib:
    """``struct udp_mib``: what /proc/net/snmp shows of UDP."""

    __slots__ = ("in_datagrams", "in_errors", "no_ports", "out_datagrams", "rcvbuf_errors", "sndbuf_errors")

    def __init__(self) -> None:
        self.in_datagrams = self.no_ports = self.in_errors = self.out_datagrams = self.rcvbuf_errors = self.sndbuf_errors = 0


class UdpRecv(UdpHash):
    """Receiving datagrams."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet) -> None:
        super().__init__()
        self.sched = kernel.sched
        self.socks = socks
        self.skbs = skbs
        self.inet = inet
        self.mib = UdpMib()

    def udp_rcv(self, skb: SkBuff) -> None:
        """Find the socket of a datagram and queue it (``udp_rcv()``)."""
        if skb.len - skb.data_len < 8:
            self._drop(skb, "udp: short")
            return
        sport, dport, length, check = _unpack_udp(skb.buf, skb.h)
        if length != skb.len:
            if length < 8 or length > skb.len or not pskb_trim(self.skbs, skb, length):
                self._drop(skb, "udp: malformed")
                return
        if not check:
            skb.ip_summed = CHECKSUM_UNNECESSARY
        self.sched.spend(UDP_RX)
        skb.seq = sport
        chain = self.ports.get(dport)
        if chain is None:
            self._nobody(skb)
            return
        sk = chain[0]
        if len(chain) > 1 or sk.dport or (sk.saddr and sk.saddr != skb.daddr):
            self._choose(skb, sport, dport)
            return
        self.udp_queue_rcv_skb(sk, skb)

    def _choose(self, skb: SkBuff, sport: int, dport: int) -> None:
        """Give a datagram to the socket that fits it best, or one for everybody to all that take it."""
        if skb.pkt_type != PACKET_HOST:
            takers = self.udp_v4_mcast(skb.saddr, sport, skb.daddr, dport)
            for sk in takers[1:]:
                clone = self.skbs.skb_clone(skb, GFP_ATOMIC)
                if clone is not None:
                    self.udp_queue_rcv_skb(sk, clone)
            if takers:
                self.udp_queue_rcv_skb(takers[0], skb)
            else:
                self.skbs.kfree_skb(skb, "udp: no socket")
            return
        best = self.udp_v4_lookup(skb.saddr, sport, skb.daddr, dport)
        if best is None:
            self._nobody(skb)
        else:
            self.udp_queue_rcv_skb(best, skb)

    def udp_queue_rcv_skb(self, sk: UdpSock, skb: SkBuff) -> None:
        """Queue a datagram for a socket (``udp_queue_rcv_skb()``)."""
        if sk.sk_program is not None and not self._checksum_complete(skb):
            self._drop(skb, "udp: checksum")
            return
        err = self.socks.sock_queue_rcv_skb(sk, skb)
        if err:
            if err == -ENOMEM:
                self.mib.rcvbuf_errors += 1
            self._drop(skb, None)
        else:
            self.mib.in_datagrams += 1

    def _nobody(self, skb: SkBuff) -> None:
        """Tell the sender that nobody listens."""
        if not self._checksum_complete(skb):
            self._drop(skb, "udp: checksum")
            return
        self.mib.no_ports += 1
        if skb.pkt_type == PACKET_HOST:
            self.inet.icmp.icmp_send_port_unreach(skb)
        self.skbs.kfree_skb(skb, "udp: no socket")

    def _drop(self, skb: SkBuff, reason: str | None) -> None:
        self.mib.in_errors += 1
        self.skbs.kfree_skb(skb, reason)

    def _checksum_complete(self, skb: SkBuff) -> bool:
        """Tell whether the checksum is right, once (``udp_lib_checksum_complete()``)."""
        return skb.ip_summed == CHECKSUM_UNNECESSARY or skb_checksum_complete(skb, IPPROTO_UDP)

    # errors

    def udp_err(self, inner: IcmpInner, kind: int, code: int, info: int) -> None:
        """Tell the sender of a datagram what a router or the receiver says of it (``udp_err()``)."""
        sport, dport, _length, _check = _unpack_udp(inner.transport, 0)
        sk = self.udp_v4_lookup(inner.daddr, dport, inner.saddr, sport)
        error = icmp_error_of(kind, code)
        if sk is None or error is None:
            return
        errno, fatal = error
        if kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED:
            if sk.pmtudisc == IP_PMTUDISC_DONT:
                return
            fatal = True
        if sk.recverr:
            err = ExtendedErr(errno, SO_EE_ORIGIN_ICMP, kind, code, info, inner.sender)
            ip_icmp_error(self.skbs, sk, err, SockaddrIn(inner.daddr, dport), inner.transport[8:])
        elif not fatal or sk.sk_state != TCP_ESTABLISHED:
            return
        sk.sk_err = errno
        sk.sk_error_report(sk)

    # readers

    def first_packet_length(self, sk: UdpSock) -> int:
        """Give the bytes of the next datagram; broken ones before it are lost (``udp_poll()``, ``udp_ioctl()``)."""
        queue = sk.sk_receive_queue
        while queue and not self._checksum_complete(queue[0]):
            self._drop(queue.popleft(), "udp: checksum")
        return queue[0].len - 8 if queue else 0

    def recvmsg(self, sk: UdpSock, size: int, flags: int = 0, nonblock: bool = False) -> Msg | int:
        """Read one datagram (``udp_recvmsg()``); what does not fit is lost, unless it is only looked at (MSG_PEEK)."""
        if flags & MSG_ERRQUEUE:
            return ip_recv_error(self.skbs, sk, size)
        while True:
            skb = skb_recv_datagram(sk, bool(flags & MSG_PEEK), nonblock)
            if isinstance(skb, int):
                return skb or Msg(b"")
            if self._checksum_complete(skb):
                break
            if flags & MSG_PEEK and sk.sk_receive_queue and sk.sk_receive_queue[0] is skb:
                self.skbs.kfree_skb(sk.sk_receive_queue.popleft())
            self._drop(skb, "udp: checksum")
            if nonblock:
                return -EAGAIN
        data = skb_bytes(skb)[8:]
        msg = Msg(data[:size], SockaddrIn(skb.saddr, skb.seq), min(len(data), size))
        if len(data) > size:
            msg.flags = MSG_TRUNC
            if flags & MSG_TRUNC:
                msg.length = len(data)
        if sk.cmsg_flags:
            msg.control = ip_cmsg_recv(sk, skb)
        self.skbs.kfree_skb(skb)
        return msg

    def recvfrom(self, sk: UdpSock, *, nonblock: bool = False) -> tuple[bytes, int, int] | int:
        """Read one datagram whole, for users inside the kernel: (data, source address, source port), or a negative errno."""
        msg = self.recvmsg(sk, 1 << 16, 0, nonblock)
        if isinstance(msg, int):
            return msg
        name = msg.name
        return (msg.data, name.addr, name.port) if isinstance(name, SockaddrIn) else (b"", 0, 0)
