"""Packet sockets: a program that wants to see frames (2.6.23 net/packet/af_packet.c).

Interface
    PacketFamily(kernel, socks, skbs, dev, nic)       AF_PACKET for Sockets
    PacketSock                                        struct packet_sock

Rules
    * A socket of ETH_P_ALL is a tap: it gets every frame that is received, and every one that is sent, its own excepted. A socket
      of another protocol sits beside that protocol's handler and sees received frames only.
    * A queued packet is a clone (GFP_ATOMIC); what is over rcvbuf, or finds no memory, is dropped and counted.
    * sk_filter() is not asked here: patch 20 does not protect the reserve from packet sockets. Patch 23 does, from taps alone: a
      socket bound to ETH_P_IP still gets emergency packets in v14.
    * SOCK_RAW sees and writes the Ethernet header, SOCK_DGRAM does not.
    * There is one device, of index 2 (loopback would be 1).
    * Left out: SOCK_PACKET, the mapped ring, PACKET_AUXDATA, memberships of groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from kemu.kernel.errno import (
    EINVAL,
    EMSGSIZE,
    ENETDOWN,
    ENOBUFS,
    ENODEV,
    ENOIOCTLCMD,
    ENOPROTOOPT,
    ENXIO,
    EOPNOTSUPP,
    ESOCKTNOSUPPORT,
)
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core import uapi
from kemu_net.core.datagram import datagram_poll, skb_recv_datagram, sock_alloc_send_skb
from kemu_net.core.skb_trim import pskb_trim
from kemu_net.core.skbuff import PACKET_OUTGOING, SkBuff, skb_bytes, skb_pull
from kemu_net.core.sock import SOCK_DEAD, Proto, Sock, skb_set_owner_r, sock_put
from kemu_net.core.uapi import Msg, SockaddrLl
from kemu_net.socket.ops import Address, ProtoOps, Socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.dev import Dev
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.sock import Socks
    from kemu_net.drivers.nic import Nic

ETH_P_ALL = 0x0003
ARPHRD_ETHER = 1
IFINDEX = 2
ETH_HLEN = 14
SIZEOF_PACKET_SOCK = 592

PACKET_ADD_MEMBERSHIP = 1
PACKET_DROP_MEMBERSHIP = 2
PACKET_STATISTICS = 6
PACKET_MR_PROMISC = 1

_RECV_FLAGS = uapi.MSG_PEEK | uapi.MSG_DONTWAIT | uapi.MSG_TRUNC


@attrs.define
class TpacketStats:
    """``struct tpacket_stats``: what came since the last look, and how much of it was dropped."""

    tp_packets: int = 0
    tp_drops: int = 0


class PacketSock(Sock):
    """``struct packet_sock``.

    :ivar promisc: how often it asked for promiscuous mode.
    :ivar num: the protocol it wants, 0 for none; :ivar ifindex: the device it is bound to, 0 for all.
    :ivar hook: what is registered with the device layer, None when nothing is.
    """

    __slots__ = ("hook", "ifindex", "num", "promisc", "stats")

    def __init__(self, socks: Socks, prot: Proto, addr: int) -> None:
        super().__init__(socks, prot, addr)
        self.num = self.ifindex = self.promisc = 0
        self.stats = TpacketStats()
        self.hook: Callable[[SkBuff], object] | None = None


class Beside:
    """A protocol's handler with packet sockets beside it: they see the frame first, the handler keeps it."""

    __slots__ = ("handler", "skbs", "taps")

    def __init__(self, skbs: SkbAlloc, handler: Callable[[SkBuff], object] | None) -> None:
        self.skbs = skbs
        self.handler = handler
        self.taps: list[Callable[[SkBuff], object]] = []

    def __call__(self, skb: SkBuff) -> None:
        """Deliver a frame (the walk of ``ptype_base`` in ``netif_receive_skb()``)."""
        for tap in self.taps:
            skb.users += 1
            tap(skb)
        if self.handler is not None:
            self.handler(skb)
        else:
            self.skbs.kfree_skb(skb)


class PacketFamily(ProtoOps):
    """AF_PACKET: makes the sockets, and is their ``packet_ops``."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, dev: Dev, nic: Nic) -> None:
        self.sched = kernel.sched
        self.socks = socks
        self.skbs = skbs
        self.dev = dev
        self.nic = nic
        self._promiscuity = int(nic.rx.promiscuous)
        self.prot = Proto("PACKET", socks.slub.kmem_cache_create("PACKET", SIZEOF_PACKET_SOCK))

    # life

    def create(self, kind: int, protocol: int) -> Socket | int:
        """Make a socket; with a protocol it begins to hear at once (``packet_create()``)."""
        if kind not in (uapi.SOCK_RAW, uapi.SOCK_DGRAM):
            return -ESOCKTNOSUPPORT
        sk = self.socks.sk_alloc(self.prot, GFP_KERNEL, PacketSock)
        if sk is None:
            return -ENOBUFS
        if self.socks.sock_alloc_inode(sk):
            sock_put(sk)
            return -ENOBUFS
        sk.sk_protocol = sk.num = protocol
        sock = Socket(kind, self, sk)
        if protocol:
            self._register(sk)
        return sock

    def release(self, sock: Socket) -> None:
        """Close; what is unread is dropped (``packet_release()``)."""
        sk: PacketSock = sock.sk
        self._unregister(sk)
        if sk.promisc:
            self._dev_set_promiscuity(-sk.promisc)
        sk.sk_flags |= SOCK_DEAD
        sk.sk_socket = None
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        sock_put(sk)

    def _register(self, sk: PacketSock) -> None:
        """Begin to hear (``dev_add_pack()``)."""

        def hook(skb: SkBuff) -> None:
            self.packet_rcv(sk, skb)

        hook.owner = sk  # type: ignore[attr-defined]  # af_packet_priv: the device layer spares a sender its own frames
        sk.hook = hook
        if sk.num == ETH_P_ALL:
            self.dev.ptype_all.insert(0, hook)
            return
        types = self.dev.packet_types
        beside = types.get(sk.num)
        if not isinstance(beside, Beside):
            beside = types[sk.num] = Beside(self.skbs, beside)
        beside.taps.insert(0, hook)

    def _unregister(self, sk: PacketSock) -> None:
        """Hear nothing more (``dev_remove_pack()``)."""
        hook = sk.hook
        if hook is None:
            return
        sk.hook = None
        if sk.num == ETH_P_ALL:
            self.dev.ptype_all.remove(hook)
            return
        types = self.dev.packet_types
        beside = types[sk.num]
        assert isinstance(beside, Beside)
        beside.taps.remove(hook)
        if not beside.taps:
            if beside.handler is None:
                del types[sk.num]
            else:
                types[sk.num] = beside.handler

    def bind(self, sock: Socket, addr: Address) -> int:
        """Choose the device and the protocol (``packet_bind()``)."""
        sk: PacketSock = sock.sk
        if not isinstance(addr, SockaddrLl):
            return -EINVAL
        if addr.ifindex not in (0, IFINDEX):
            return -ENODEV
        self._unregister(sk)
        sk.num = addr.protocol or sk.num
        sk.ifindex = addr.ifindex
        if sk.num:
            self._register(sk)
        return 0

    def getname(self, sock: Socket, peer: int) -> Address | int:
        """Give device and protocol (``packet_getname()``)."""
        if peer:
            return -EOPNOTSUPP
        sk: PacketSock = sock.sk
        if not sk.ifindex:
            return SockaddrLl(sk.num)
        return SockaddrLl(sk.num, sk.ifindex, ARPHRD_ETHER, 0, self.nic.mac)

    # receive

    def packet_rcv(self, sk: PacketSock, skb: SkBuff) -> None:
        """Queue a frame for a program (``packet_rcv()``); the reference is ours."""
        data, length = skb.data, skb.len
        if sk.sk_type != uapi.SOCK_DGRAM:
            skb.len += skb.data - skb.mac
            skb.data = skb.mac
        elif skb.pkt_type == PACKET_OUTGOING:
            skb_pull(skb, skb.nh - skb.data)
        keep = skb.len
        program = sk.sk_program
        if program is not None:
            keep = min(keep, program(skb))
        if not keep or sk.sk_rmem_alloc + skb.truesize >= sk.sk_rcvbuf:
            sk.stats.tp_drops += keep > 0
            skb.data, skb.len = data, length
            self.skbs.kfree_skb(skb)
            return
        ours: SkBuff | None = skb
        if skb.users > 1:
            ours = self.skbs.skb_clone(skb, GFP_ATOMIC)
            skb.data, skb.len = data, length
            self.skbs.kfree_skb(skb)
        if ours is None:
            sk.stats.tp_drops += 1
            return
        ours.seq = ours.len
        if keep < ours.len and not pskb_trim(self.skbs, ours, keep):
            sk.stats.tp_drops += 1
            self.skbs.kfree_skb(ours)
            return
        skb_set_owner_r(ours, sk)
        ours.dev = ours.dst = None
        sk.stats.tp_packets += 1
        sk.sk_receive_queue.append(ours)
        sk.sk_data_ready(sk)

    def recvmsg(self, sock: Socket, size: int, flags: int, nonblock: bool) -> Msg | int:
        """Read one frame (``packet_recvmsg()``)."""
        if flags & ~_RECV_FLAGS:
            return -EINVAL
        skb = skb_recv_datagram(sock.sk, bool(flags & uapi.MSG_PEEK), nonblock)
        if isinstance(skb, int):
            return skb or Msg(b"")
        data = skb_bytes(skb)
        source = skb.buf[skb.mac + 6 : skb.mac + 12]
        msg = Msg(data[:size], SockaddrLl(skb.protocol, IFINDEX, ARPHRD_ETHER, skb.pkt_type, source), min(len(data), size))
        if len(data) > size:
            msg.flags = uapi.MSG_TRUNC
            if flags & uapi.MSG_TRUNC:
                msg.length = len(data)
        self.skbs.kfree_skb(skb)
        return msg

    # send

    def sendmsg(self, sock: Socket, data: bytes, name: Address | None, flags: int, nonblock: bool) -> int:
        """Send one frame (``packet_sendmsg()``): its length or a negative errno."""
        sk: PacketSock = sock.sk
        if name is not None and not isinstance(name, SockaddrLl):
            return -EINVAL
        ifindex, proto = (sk.ifindex, sk.num) if name is None else (name.ifindex, name.protocol)
        if ifindex != IFINDEX:
            return -ENXIO
        nic = self.nic
        raw = sock.type == uapi.SOCK_RAW
        if not nic.is_open:
            return -ENETDOWN
        if len(data) > nic.mtu + (ETH_HLEN if raw else 0):
            return -EMSGSIZE
        if raw and len(data) < ETH_HLEN:
            return -EINVAL
        if not raw and (name is None or len(name.addr) != 6):
            return -EINVAL
        skb = sock_alloc_send_skb(sk, len(data) + ETH_HLEN + 2, nonblock)
        if isinstance(skb, int):
            return skb
        skb.buf = data if raw or name is None else name.addr + nic.mac + proto.to_bytes(2, "big") + data
        skb.len = len(skb.buf)
        skb.data = skb.mac = 0
        skb.nh = ETH_HLEN
        skb.protocol = proto
        skb.dev = nic
        err = self.dev.dev_queue_xmit(skb)
        return -ENOBUFS if err > 0 else err or len(data)

    # questions

    def poll(self, sock: Socket) -> int:
        """Tell what the socket is ready for."""
        return datagram_poll(sock.sk)

    def ioctl(self, sock: Socket, cmd: int) -> int:
        """Give the length of the next frame, or the bytes that are not sent yet (``packet_ioctl()``)."""
        sk: PacketSock = sock.sk
        if cmd == uapi.SIOCOUTQ:
            return sk.sk_wmem_alloc
        if cmd == uapi.SIOCINQ:
            return sk.sk_receive_queue[0].len if sk.sk_receive_queue else 0
        return -ENOIOCTLCMD

    def setsockopt(self, sock: Socket, level: int, optname: int, value: Any) -> int:
        """Ask the device for all frames of the wire, or no more (``packet_setsockopt()``): value PACKET_MR_PROMISC."""
        sk: PacketSock = sock.sk
        if level != uapi.SOL_PACKET or optname not in (PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP):
            return -ENOPROTOOPT
        if value != PACKET_MR_PROMISC:
            return -EINVAL
        step = 1 if optname == PACKET_ADD_MEMBERSHIP else -1
        if sk.promisc + step < 0:
            return 0
        sk.promisc += step
        self._dev_set_promiscuity(step)
        return 0

    def _dev_set_promiscuity(self, step: int) -> None:
        """Count who wants all frames of the wire (``dev_set_promiscuity()``)."""
        self._promiscuity += step
        self.nic.rx.promiscuous = self._promiscuity > 0

    def getsockopt(self, sock: Socket, level: int, optname: int) -> tuple[int, Any]:
        """Give the statistics, and begin them anew (``packet_getsockopt()``); dropped packets are among all packets."""
        if level != uapi.SOL_PACKET or optname != PACKET_STATISTICS:
            return -ENOPROTOOPT, None
        sk: PacketSock = sock.sk
        stats = sk.stats
        sk.stats = TpacketStats()
        stats.tp_packets += stats.tp_drops
        return 0, stats
