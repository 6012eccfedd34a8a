"""Test helper: one host with sockets in every state, and a peer on its wire that sends whatever bytes it is told to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from bad_frames import M32, Aim, ether, ipv4, tcp
from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.world import World
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu.patches import PatchSet
from kemu_net.core.skb_variants import Recycling
from kemu_net.core.uapi import AF_INET, AF_PACKET, SOCK_RAW
from kemu_net.drivers.wire import Wire
from kemu_net.ipv4.tcp_states import STATES
from kemu_net.netfilter.core import NF_ACCEPT, NF_IP_LOCAL_IN, NF_IP_PRE_ROUTING, NF_QUEUE, NfHookOps
from kemu_net.netfilter.nfnetlink_queue import NfnlQueue
from kemu_net.stack import NetStack
from net_ground import IP_A, IP_B, MAC_A, MAC_B

MIB = 1 << 20
ETH_P_ALL = 3
MS = 1_000_000
SECOND = 1_000_000_000
FIN, SYN, RST, ACK = 1, 2, 4, 16
LISTEN, UDP_PORT = 80, 7
FIRST_PORT = 40000  # the peer's, one per connection
RING = 16
#: What nothing of may be left when all sockets are closed and their timers have run out.
CACHES = ("TCP", "UDP", "tw_sock_TCP", "request_sock_TCP", "tcp_bind_bucket")


class FuzzHost:
    """A host under fire; itself the port of the peer.

    :ivar aims: the connections as the peer knows them.
    """

    mac = MAC_B

    def __init__(self, world: World, *, patches="all", fixes="all", mem=16 * MIB, **nic) -> None:
        self.world = world
        self.kernel = kernel = Kernel("a", world, 1, PatchSet.parse(patches), FixSet.parse(fixes))
        self.page_alloc = PageAllocator(kernel, mem)
        self.slub = Slub(kernel, self.page_alloc)
        self.reserves = Reserves(kernel, self.page_alloc, self.slub)
        self.wire = Wire(world)
        self.stack = NetStack(kernel, self.page_alloc, self.slub, self.reserves, self.wire, mac=MAC_A, ip=IP_A, ring=RING, **nic)
        self.tcp = self.stack.tcp
        self.wire.attach(self)
        self.aims: list[Aim] = []
        self.socks: list = []
        self.hogged: list[int] = []
        self.hogged_buffers: list[int] = []
        self.closing = False
        self.program = self.stack.sockets()
        self.queue: NfnlQueue | None = None
        self.hooks: list[NfHookOps] = []

    # the peer

    def deliver(self, time: int, frame: bytes) -> None:
        """Answer ARP; keep the numbers of the connections up to date."""
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1":
            reply = struct.pack("!HHBBH6sI6sI", 1, 0x800, 6, 4, 2, MAC_B, IP_B, MAC_A, IP_A)
            self.world.post(time, lambda _arg: self.send(ether(reply, 0x0806)), None)
        elif frame[12:15] == b"\x08\x00\x45" and frame[23] == 6 and len(frame) >= 54:
            sport, dport, seq, _ack, offset, flags = struct.unpack_from("!HHIIBB", frame, 34)
            size = (frame[16] << 8 | frame[17]) - 20 - (offset >> 4 << 2) + bool(flags & SYN) + bool(flags & FIN)
            for aim in self.aims:
                if (aim.dport, aim.sport) == (sport, dport) and not flags & RST:
                    aim.ack = (seq + size) & M32

    def send(self, frame: bytes) -> None:
        """Put bytes on the wire."""
        self.wire.transmit(self, frame, self.world.now)

    def run(self, ms: float) -> None:
        self.world.run(for_ns=int(ms * MS))
        if self.world.failure is not None:
            raise self.world.failure

    def fire(self, case, aim: Aim) -> None:
        """Give the NIC the bytes of a case, even those that no switch would forward, and let the host see them."""
        self.stack.nic.deliver(self.world.now + 1000, case(aim))
        self.run(0.2)

    def segment(self, aim: Aim, flags: int, data=b"") -> None:
        """Send a right segment and count on."""
        self.send(ether(ipv4(6, tcp(aim, flags, 0, 0, 65535, b"\x02\x04\x05\xb4" if flags & SYN else b"", data, 0, 0, True, ()))))
        aim.seq = (aim.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & M32
        self.run(1)

    # sockets

    def open_sockets(self, *, swap=False) -> None:
        """Make a UDP socket, a listener, and a connection in every state."""
        tcp_, udp = self.tcp, self.stack.udp
        sk = udp.sock_create()
        udp.bind(sk, 0, UDP_PORT)
        self.socks.append((udp, sk))
        self.listener = tcp_.sock_create()
        assert tcp_.bind(self.listener, 0, LISTEN) == 0
        assert tcp_.listen(self.listener, 8) == 0
        self.socks.append((tcp_, self.listener))
        self.aims.append(Aim(FIRST_PORT - 1, LISTEN, 5000, 0))
        self._connecting()
        self._half_open()
        states = {}
        for name in ("ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "FIN_WAIT1", "FIN_WAIT2", "CLOSING", "TIME_WAIT"):
            aim, conn = self._accepted()
            states[name] = conn
            if swap and name == "ESTABLISHED":
                assert self.stack.socks.sk_set_memalloc(conn) == 1
            if name in ("CLOSE_WAIT", "LAST_ACK"):
                self.segment(aim, FIN | ACK)
            if name not in ("ESTABLISHED", "CLOSE_WAIT"):
                seq_of_fin = aim.ack
                tcp_.close(conn)
                self.run(1)
                if name == "CLOSING":  # both close at once: the peer has not seen the FIN
                    seen, aim.ack = aim.ack, seq_of_fin
                    self.segment(aim, FIN | ACK)
                    aim.ack = seen
                elif name == "FIN_WAIT2":
                    self.segment(aim, ACK)
                elif name == "TIME_WAIT":
                    self.segment(aim, FIN | ACK)
            else:
                self.socks.append((tcp_, conn))
        for name, conn in states.items():
            if name not in ("TIME_WAIT", "FIN_WAIT2"):  # which may live on as small ones
                assert STATES[conn.sk_state] == name, (STATES[conn.sk_state], name)

    def open_audience(self) -> None:
        """Let others hear too: raw and packet sockets, a queue of datagrams that nobody reads, a reader that waits for data."""
        for family, protocol in ((AF_INET, 1), (AF_INET, 6), (AF_PACKET, ETH_P_ALL)):
            assert self.program.socket(family, SOCK_RAW, protocol) >= 0
        self.queue = NfnlQueue(self.kernel, self.stack.nf, maxlen=8)
        self.queue.bind()
        for place in (NF_IP_PRE_ROUTING, NF_IP_LOCAL_IN):
            hook = NfHookOps(lambda _hook, skb, *_rest: NF_QUEUE if skb.buf[skb.nh + 9] == 17 else NF_ACCEPT, place)
            self.stack.nf.nf_register_hook(hook)
            self.hooks.append(hook)
        _aim, conn = self._accepted()
        conn.sk_rcvtimeo = 250

        def reader() -> None:
            while not self.closing:
                self.tcp.recvmsg(conn, 4096)
                self.kernel.sched.msleep(10)
            self.tcp.close(conn)

        self.kernel.sched.spawn("reader", reader)
        self.run(1)

    def close_audience(self) -> None:
        self.closing = True
        self.program.close_all()
        for hook in self.hooks:
            self.stack.nf.nf_unregister_hook(hook)
        if self.queue is not None:
            self.queue.unbind()

    def _connecting(self) -> None:
        """Make a socket whose SYN is not answered."""
        sk = self.tcp.sock_create()
        assert self.tcp.connect_nonblock(sk, IP_B, 2049) == -115
        self.aims.append(Aim(2049, sk.sport, 9000, 0))
        self.run(10)  # the question for its hardware address comes a jiffy later
        self.socks.append((self.tcp, sk))

    def _half_open(self) -> None:
        """Begin a handshake that the peer does not end."""
        aim = Aim(FIRST_PORT + 99, LISTEN, 7000, 0)
        self.aims.append(aim)
        self.segment(aim, SYN)

    def _accepted(self):
        """Open a connection from the peer; it has sent data that nobody has read."""
        aim = Aim(FIRST_PORT + len(self.aims), LISTEN, 1000 * len(self.aims), 0)
        self.aims.append(aim)
        self.segment(aim, SYN)
        self.segment(aim, ACK)
        conn = self.tcp.accept(self.listener, nonblock=True)
        assert conn is not None
        self.segment(aim, ACK, b"hello" * 20)
        self.tcp.recvmsg(conn, 1000, nonblock=True)
        return aim, conn

    def close(self) -> None:
        """Close all sockets and wait until the last timer has run out; then nothing may be left.

        Memory comes back first: tcp_send_fin() asks until there is some.
        """
        self.unhog()
        self.close_audience()
        for family, sk in reversed(self.socks):
            self.stack.socks.sk_clear_memalloc(sk)  # as who swaps does: the last reference may go in softirq
            family.close(sk)
        self.socks.clear()
        self.run(3_000_000)
        left = {name: self.slub.objects_in_use(self.slub.caches[name]) for name in CACHES if name in self.slub.caches}
        assert not any(left.values()), left
        stack = self.stack
        assert not stack.socks.live
        stack.check()
        stack.close()
        assert (stack.skbs.live, stack.skbs.emergency_live, stack.net_reserves.net_skb_reserve.usage) == (0, 0, 0)
        self.slub.check()
        self.page_alloc.check()

    # memory

    def to_the_floor(self) -> None:
        """Empty the ring, take every kmalloc class until NULL, refill: all that the NIC receives lies in the reserve now."""
        ring = self.stack.nic.rx
        while ring.buffers:
            ring._free_buffer(ring.buffers.popleft())
        for size in (4096, 2048, 1024, 512, 256, 192, 128, 96, 64, 32, 16, 8):
            while (addr := self.slub.kmalloc(size, GFP_ATOMIC | _GFP_NOWARN)) is not None:
                self.hogged.append(addr)
        cache = getattr(self.stack.skbs, "skbuff_rx_cache", None)  # of buffers of one size
        if cache is not None:
            while (addr := self.slub.kmem_cache_alloc(cache, GFP_ATOMIC | _GFP_NOWARN)) is not None:
                self.hogged_buffers.append(addr)
        ring.refill()
        recycling = isinstance(self.stack.skbs, Recycling)  # which gives the same buffers again
        assert recycling or all(skb.emergency for skb, _pages in ring.buffers), ring.buffers

    def unhog(self) -> None:
        while self.hogged:
            self.slub.kfree(self.hogged.pop())
        while self.hogged_buffers:
            self.slub.kmem_cache_free(self.stack.skbs.skbuff_rx_cache, self.hogged_buffers.pop())


@contextmanager
def under_fire(*, floor=False, audience=False, **options) -> Iterator[FuzzHost]:
    """Boot a host with sockets in every state; at the floor, one of them carries swap and the ring lies in the reserve."""
    world = World()
    try:
        host = FuzzHost(world, **options)
        host.open_sockets(swap=floor)
        if audience:
            host.open_audience()
        if floor:
            host.to_the_floor()
        yield host
        host.close()
    finally:
        world.shutdown()
