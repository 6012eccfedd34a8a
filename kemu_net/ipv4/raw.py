"""Raw sockets: packets of any protocol, as they are (2.6.23 net/ipv4/raw.c).

Interface
    Raw.sock_create(protocol)                     a RawSock, or None without memory
    Raw.bind(sk, addr), connect(sk, daddr), disconnect(sk), close(sk)
    Raw.sendmsg(sk, data, name, flags, nonblock)  bytes sent or a negative errno
    Raw.recvmsg(sk, size, flags, nonblock)        Msg or a negative errno
    Raw.raw_local_deliver(skb, proto)             what ip_input calls with every packet: does any socket want it?
    Raw.raw_err(inner, kind, code, info)          an ICMP error about any packet of ours

Rules
    * A received packet begins with its IP header. Each socket that matches gets a clone (GFP_ATOMIC: an emergency packet's head
      comes from the reserve under PF_MEMALLOC), through sk_filter(): patch 20 drops an emergency packet here too.
    * ``raw_local_deliver`` is hooked into IP only while there is a raw socket.
    * ICMP_FILTER is a mask of types: bit n set, type n is not delivered.
    * With IP_HDRINCL the program writes the header; length, identity, source and checksum are filled in where the kernel fills
      them in.
    * Left out: multicast, IP options, control messages of senders, the probe of a header's first bytes for routing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import (
    EACCES,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EDESTADDRREQ,
    EINVAL,
    EMSGSIZE,
    EOPNOTSUPP,
)
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.core.datagram import skb_recv_datagram, sock_alloc_send_skb
from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.sock import SOCK_BROADCAST, SOCK_DEAD, Proto, Sock, sock_put
from kemu_net.core.uapi import (
    AF_INET,
    AF_UNSPEC,
    INADDR_LOOPBACK,
    IP_PMTUDISC_DONT,
    IPPROTO_RAW,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    Msg,
    SockaddrIn,
)
from kemu_net.ipv4.icmp import IPPROTO_ICMP
from kemu_net.ipv4.ip_sockglue import (
    ICMP_DEST_UNREACH,
    ICMP_FRAG_NEEDED,
    SO_EE_ORIGIN_ICMP,
    ExtendedErr,
    icmp_error_of,
    ip_cmsg_recv,
    ip_icmp_error,
    ip_recv_error,
    purge_error_queue,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_ESTABLISHED

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Socks
    from kemu_net.ipv4.icmp import IcmpInner
    from kemu_net.ipv4.inet import Inet

SIZEOF_RAW_SOCK = 672
IP_DF = 0x4000


class RawSock(Sock):
    """``struct raw_sock``. Its protocol is ``sk_protocol``.

    :ivar filter: ICMP_FILTER.
    """

    __slots__ = ("bind_addr", "filter")

    def __init__(self, socks: Socks, prot: Proto, addr: int) -> None:
        super().__init__(socks, prot, addr)
        self.filter = 0
        self.bind_addr = 0


class Raw:
    """The raw sockets of one machine.

    :ivar table: protocol to its sockets, the newest first (``raw_v4_htable``).
    """

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet) -> None:
        self.sched = kernel.sched
        self.socks = socks
        self.skbs = skbs
        self.inet = inet
        self.prot = Proto("RAW", socks.slub.kmem_cache_create("RAW", SIZEOF_RAW_SOCK))
        self.table: dict[int, list[RawSock]] = {}

    # sockets

    def sock_create(self, protocol: int) -> RawSock | None:
        """Make a socket of one protocol; None without memory."""
        sk: RawSock | None = self.socks.sk_alloc(self.prot, GFP_KERNEL, RawSock)
        if sk is None:
            return None
        if self.socks.sock_alloc_inode(sk):
            sock_put(sk)
            return None
        sk.sk_protocol = sk.sport = protocol
        sk.hdrincl = int(protocol == IPPROTO_RAW)
        self.table.setdefault(protocol, []).insert(0, sk)
        self.inet.input.raw_local_deliver = self.raw_local_deliver
        self.inet.icmp.raw_err = self.raw_err
        return sk

    def close(self, sk: RawSock) -> None:
        """Close a socket; what is unread is dropped (``raw_close()``)."""
        chain = self.table[sk.sk_protocol]
        chain.remove(sk)
        if not chain:
            del self.table[sk.sk_protocol]
        if not self.table:
            self.inet.input.raw_local_deliver = None
            self.inet.icmp.raw_err = None
        sk.sk_flags |= SOCK_DEAD
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        purge_error_queue(self.skbs, sk)
        sock_put(sk)

    def bind(self, sk: RawSock, addr: int) -> int:
        """Hear what comes to one own address alone (``raw_bind()``)."""
        if sk.sk_state != TCP_CLOSE:
            return -EINVAL
        if not self.inet.is_local(addr) and addr != self.inet.route.broadcast:
            return -EADDRNOTAVAIL
        sk.saddr = sk.bind_addr = addr
        return 0

    def connect(self, sk: RawSock, daddr: int) -> int:
        """Choose the peer (``ip4_datagram_connect()``)."""
        dst = self.inet.ip_route_output(daddr or INADDR_LOOPBACK, sk.saddr)
        if isinstance(dst, int):
            return dst
        if dst.broadcast and not sk.sk_flags & SOCK_BROADCAST:
            return -EACCES
        sk.saddr = sk.saddr or dst.saddr
        sk.daddr = daddr or INADDR_LOOPBACK
        sk.sk_state = TCP_ESTABLISHED
        return 0

    def disconnect(self, sk: RawSock) -> None:
        """Take the peer off (``udp_disconnect()``)."""
        sk.sk_state = TCP_CLOSE
        sk.daddr = 0
        sk.saddr = sk.bind_addr

    # receive

    def _matching(self, protocol: int, saddr: int, daddr: int) -> list[RawSock]:
        """Give the sockets that a packet from ``saddr`` to ``daddr`` is for (``__raw_v4_lookup()``)."""
        return [
            sk for sk in self.table.get(protocol, ()) if (not sk.daddr or sk.daddr == saddr) and (not sk.saddr or sk.saddr == daddr)
        ]

    def raw_local_deliver(self, skb: SkBuff, proto: int) -> bool:
        """Give a clone to each socket that wants the packet (``raw_v4_input()``); tell whether there was one."""
        takers = self._matching(proto, skb.saddr, skb.daddr)
        for sk in takers:
            if proto == IPPROTO_ICMP and _icmp_filter(sk, skb):
                continue
            clone = self.skbs.skb_clone(skb, GFP_ATOMIC)
            if clone is not None:
                self._raw_rcv(sk, clone)
        return bool(takers)

    def _raw_rcv(self, sk: RawSock, skb: SkBuff) -> None:
        """Queue a packet, its IP header included (``raw_rcv()``)."""
        back = skb.data - skb.nh
        skb.data = skb.nh
        skb.len += back
        if self.socks.sock_queue_rcv_skb(sk, skb):
            self.skbs.kfree_skb(skb)

    def raw_err(self, inner: IcmpInner, kind: int, code: int, info: int) -> None:
        """Tell the sockets of a protocol what is said of a packet of ours (``raw_err()``)."""
        error = icmp_error_of(kind, code)
        if error is None:
            return
        errno, fatal = error
        for sk in self._matching(inner.protocol, inner.daddr, inner.saddr):
            if not sk.recverr and sk.sk_state != TCP_ESTABLISHED:
                continue
            hard = fatal
            if kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED:
                hard = sk.pmtudisc != IP_PMTUDISC_DONT
            if sk.recverr:
                err = ExtendedErr(errno, SO_EE_ORIGIN_ICMP, kind, code, info, inner.sender)
                ip_icmp_error(self.skbs, sk, err, SockaddrIn(inner.daddr, 0), inner.transport)
            if sk.recverr or hard:
                sk.sk_err = errno
                sk.sk_error_report(sk)

    def recvmsg(self, sk: RawSock, size: int, flags: int = 0, nonblock: bool = False) -> Msg | int:
        """Read one packet (``raw_recvmsg()``)."""
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        if flags & MSG_ERRQUEUE:
            return ip_recv_error(self.skbs, sk, size)
        skb = skb_recv_datagram(sk, bool(flags & MSG_PEEK), nonblock)
        if isinstance(skb, int):
            return skb or Msg(b"")
        data = skb_bytes(skb)
        msg = Msg(data[:size], SockaddrIn(skb.saddr, 0), min(len(data), size))
        if len(data) > size:
            msg.flags = MSG_TRUNC
            if flags & MSG_TRUNC:
                msg.length = len(data)
        if sk.cmsg_flags:
            msg.control = ip_cmsg_recv(sk, skb)
        self.skbs.kfree_skb(skb)
        return msg

    # send

    def sendmsg(self, sk: RawSock, data: bytes, name: Any, flags: int, nonblock: bool) -> int:
        """Send one packet (``raw_sendmsg()``): its length or a negative errno."""
        if len(data) > 0xFFFF:
            return -EMSGSIZE
        if flags & MSG_OOB:
            return -EOPNOTSUPP
        if name is not None:
            if not isinstance(name, SockaddrIn):
                return -EINVAL
            if name.family not in (AF_INET, AF_UNSPEC):
                return -EAFNOSUPPORT
            daddr = name.addr or INADDR_LOOPBACK
        elif sk.sk_state != TCP_ESTABLISHED:
            return -EDESTADDRREQ
        else:
            daddr = sk.daddr
        dst = self.inet.ip_route_output(daddr, sk.saddr)
        if isinstance(dst, int):
            return dst
        if dst.broadcast and not sk.sk_flags & SOCK_BROADCAST:
            return -EACCES
        if sk.hdrincl:
            err = self._send_hdrinc(sk, data, dst, nonblock)
        else:
            err = self.inet.ip_send_datagram(
                data,
                dst.saddr,
                daddr,
                sk.sk_protocol,
                lambda size: sock_alloc_send_skb(sk, size, nonblock),
                tos=sk.tos,
                ttl=64 if sk.uc_ttl < 0 else sk.uc_ttl,
                pmtudisc=sk.pmtudisc,
            )
        return len(data) if err >= 0 else err

    def _send_hdrinc(self, sk: RawSock, data: bytes, dst: Any, nonblock: bool) -> int:
        """Send a packet whose header the program wrote (``raw_send_hdrinc()``)."""
        if len(data) > dst.mtu:
            return -EMSGSIZE
        ihl = (data[0] & 0xF) << 2 if data else 0
        if len(data) < 20 or ihl > len(data):
            return -EINVAL
        skb = sock_alloc_send_skb(sk, len(data) + 16, nonblock)
        if isinstance(skb, int):
            return skb
        if ihl >= 20:
            header = bytearray(data[:ihl])
            if not any(header[12:16]):
                header[12:16] = dst.saddr.to_bytes(4, "big")
            header[2:4] = len(data).to_bytes(2, "big")
            if not any(header[4:6]):
                output = self.inet.output
                output.ident = output.ident + 1 & 0xFFFF
                header[4:6] = output.ident.to_bytes(2, "big")
            header[10:12] = b"\0\0"
            header[10:12] = csum_fold(csum_partial(bytes(header))).to_bytes(2, "big")
            data = bytes(header) + data[ihl:]
        skb.buf = data
        skb.data = skb.nh = 0
        skb.h = ihl
        skb.len = len(data)
        return self.inet.output.ip_local_out(skb, dst)


def _icmp_filter(sk: RawSock, skb: SkBuff) -> bool:
    """Tell whether the socket does not want this type of ICMP packet (``icmp_filter()``)."""
    kind = skb.buf[skb.h] if skb.len > skb.data_len else 255
    return kind < 32 and bool(sk.filter >> kind & 1)
