"""Test helper: TCP without a NIC. IP hands segments to a script, or to the TCP of a second host over a scripted link."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.softirq import NET_RX_SOFTIRQ
from kemu.kernel.world import World
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu.patches import PatchSet
from kemu_net.core.checksum import csum_ok, csum_tcpudp_magic
from kemu_net.core.net_reserve import NetReserves
from kemu_net.core.skb_alloc import SkbAlloc
from kemu_net.core.skbuff import CHECKSUM_PARTIAL, skb_bytes
from kemu_net.core.sock import Socks
from kemu_net.core.stats import NetStats
from kemu_net.ipv4.tcp import Tcp
from kemu_net.ipv4.tcp_states import STATES

MIB = 1 << 20
MS = 1_000_000
SECOND = 1_000_000_000
JIFFY = 4_000_000
IP_A, IP_B = 0x0A000001, 0x0A000002
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
CACHES = (
    "TCP",
    "sock_inode_cache",
    "tw_sock_TCP",
    "request_sock_TCP",
    "tcp_bind_bucket",
    "skbuff_head_cache",
    "skbuff_fclone_cache",
)
M32 = 0xFFFFFFFF


class Seg:
    """One segment as bytes and as numbers; ``time`` is when it was sent, in ns."""

    def __init__(self, raw: bytes, saddr: int, daddr: int, time: int) -> None:
        self.raw = raw
        self.saddr, self.daddr, self.time = saddr, daddr, time
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.win, _check, _urg = struct.unpack_from(
            "!HHIIBBHHH", raw
        )
        header = offset >> 4 << 2
        self.options = raw[20:header]
        self.data = raw[header:]
        self.valid = csum_ok(raw, saddr + daddr + 6 + len(raw))

    def __repr__(self) -> str:
        names = "".join(letter for letter, bit in zip("FSRPA", (1, 2, 4, 8, 16), strict=True) if self.flags & bit)
        return f"<{self.time / SECOND:.3f} {names} seq {self.seq} ack {self.ack} win {self.win} len {len(self.data)}>"


def segment(sport, dport, seq, ack, flags, data=b"", win=65535, options=b"", saddr=IP_B, daddr=IP_A) -> bytes:
    """Build a segment with a right checksum."""
    header = struct.pack("!HHIIBBHHH", sport, dport, seq & M32, ack & M32, (5 + len(options) // 4) << 4, flags, win, 0, 0) + options
    check = csum_tcpudp_magic(saddr, daddr, 6, header + data)
    return header[:16] + struct.pack("!H", check) + header[18:] + data


class FakeInet:
    """IPv4 that knows two hosts: segments are recorded, and passed to ``forward`` if there is one."""

    def __init__(self, host, ip: int, mtu: int) -> None:
        self.host = host
        self.ip = ip
        self.nic = SimpleNamespace(mtu=mtu)
        self.sent: deque[Seg] = deque()
        self.forward = None
        self.refuse = 0
        self.route_error = 0
        self.protocols_err = {}
        self.held = None  # a list: the "device" keeps skbs until somebody frees them

    def inet_add_protocol(self, proto, fn) -> None:
        self.rcv = fn

    def is_local(self, addr: int) -> bool:
        return addr in (0, self.ip)

    def ip_route_output(self, daddr, saddr=0):
        return self.route_error or SimpleNamespace(saddr=saddr or self.ip, neigh=None, obsolete=False, refcnt=0, mtu=self.nic.mtu)

    def ip_queue_xmit(self, skb, sk) -> int:
        return self.ip_send_skb(skb, sk.saddr, sk.daddr, sk.sk_protocol)

    def ip_send_skb(self, skb, saddr, daddr, proto) -> int:
        host = self.host
        raw = skb_bytes(skb)
        if skb.ip_summed == CHECKSUM_PARTIAL:
            at = skb.csum
            assert raw[at : at + 2] == b"\0\0"
            raw = raw[:at] + struct.pack("!H", csum_tcpudp_magic(saddr, daddr, proto, raw)) + raw[at + 2 :]
        if self.held is not None:
            self.held.append(skb)
        else:
            host.skbs.kfree_skb(skb)
        if self.refuse:
            return self.refuse
        seg = Seg(raw, saddr, daddr, host.kernel.sched.now)
        assert seg.valid, seg
        assert len(raw) + 20 <= self.nic.mtu
        self.sent.append(seg)
        if self.forward is not None:
            self.forward(seg)
        return 0


class TcpHost:
    """One machine with sockets and TCP on a fake IPv4."""

    def __init__(self, world, name="a", ip=IP_A, *, patches="all", fixes="all", mem=64 * MIB, ncpus=1, mtu=1500) -> None:
        self.world = world
        self.kernel = kernel = Kernel(name, world, ncpus, PatchSet.parse(patches), FixSet.parse(fixes))
        self.page_alloc = PageAllocator(kernel, mem)
        self.slub = Slub(kernel, self.page_alloc)
        self.reserves = Reserves(kernel, self.page_alloc, self.slub)
        self.stats = NetStats()
        self.net_reserves = NetReserves(kernel, self.reserves)
        self.skbs = SkbAlloc(kernel, self.page_alloc, self.slub, self.net_reserves, self.stats)
        self.socks = Socks(kernel, self.page_alloc, self.slub, self.net_reserves, self.skbs, self.stats)
        self.inet = FakeInet(self, ip, mtu)
        self.tcp = Tcp(kernel, self.socks, self.skbs, self.inet, self.stats)
        self.rx: deque = deque()
        kernel.softirq.open_softirq(NET_RX_SOFTIRQ, self.net_rx_action)

    @property
    def jiffies(self) -> int:
        return self.kernel.sched.jiffies

    @property
    def task(self):
        return self.kernel.sched.current

    def net_rx_action(self) -> None:
        while self.rx:
            self.deliver(*self.rx.popleft())

    def interrupt(self, item) -> None:
        self.rx.append(item)
        self.kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)

    def make_skb(self, raw: bytes, saddr: int, daddr: int, emergency=False):
        """Make a received skb whose data is at the transport header; an emergency one is charged to the reserve."""
        skb = self.skbs.netdev_alloc_skb(None, 1536)
        assert skb is not None
        if emergency:
            assert self.net_reserves.rx_emergency_get(self.skbs._charge_of(skb.end))
            self.skbs.emergency_live += 1
            skb.emergency = 1
        skb.buf = b"\0" * 34 + raw
        skb.data = skb.h = 34
        skb.len = len(raw)
        skb.saddr, skb.daddr = saddr, daddr
        return skb

    def deliver(self, raw: bytes, saddr: int, daddr: int, emergency=False) -> None:
        """Receive a segment, in softirq."""
        self.inet.rcv(self.make_skb(raw, saddr, daddr, emergency))

    def receive(self, raw: bytes, saddr=IP_B, daddr=IP_A, emergency=False) -> None:
        """Receive a segment now, as a softirq between two steps of the test would."""
        self.kernel.softirq.local_bh_disable()
        self.deliver(raw, saddr, daddr, emergency)
        self.kernel.softirq.local_bh_enable()

    def sent(self) -> list[Seg]:
        """Give, and forget, what was sent."""
        out = list(self.inet.sent)
        self.inet.sent.clear()
        return out

    def run(self, ms: float) -> None:
        self.world.run(for_ns=int(ms * MS))

    def in_use(self) -> dict[str, int]:
        """Count live objects of the caches that TCP uses."""
        return {name: self.slub.objects_in_use(self.slub.caches[name]) for name in CACHES}

    def check(self) -> None:
        self.tcp.check()
        self.socks.check()
        self.slub.check()

    def assert_nothing_left(self) -> None:
        """Assert that all sockets, segments and pages went back."""
        self.check()
        assert not self.socks.live
        assert self.in_use() == dict.fromkeys(CACHES, 0)
        assert self.skbs.live == 0
        prot = self.tcp.prot
        assert (prot.memory_allocated, prot.sockets_allocated, self.tcp.orphan_count) == (0, 0, 0)
        assert not self.tcp.ehash and not self.tcp.bhash and not self.tcp.listening_hash


class Peer:
    """The other side of one connection of a TcpHost, as a script: remembers numbers, builds segments."""

    def __init__(self, host: TcpHost, sport: int, dport: int, isn=1000) -> None:
        self.host = host
        self.sport, self.dport = sport, dport
        self.isn = isn
        self.seq = isn
        self.ack = 0
        self.win = 65535

    def send(self, flags=ACK, data=b"", *, seq=None, ack=None, win=None, options=b"", emergency=False, advance=True) -> list[Seg]:
        """Send one segment and give what comes back at once; sequence numbers are those in order unless told."""
        raw = segment(
            self.sport,
            self.dport,
            self.seq if seq is None else seq,
            self.ack if ack is None else ack,
            flags,
            data,
            self.win if win is None else win,
            options,
        )
        if seq is None and advance:
            self.seq = (self.seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & M32
        self.host.receive(raw, emergency=emergency)
        return self.host.sent()

    def saw(self, seg: Seg) -> None:
        """Take a segment as received: acknowledge up to its end, never less than before."""
        end = (seg.seq + len(seg.data) + bool(seg.flags & SYN) + bool(seg.flags & FIN)) & M32
        if not self.ack or (end - self.ack) & M32 < 1 << 31:
            self.ack = end


MSS_1460 = b"\x02\x04\x05\xb4"


def listen_on(host: TcpHost, port=2049):
    """Listen on a port of ``host``."""
    listener = host.tcp.sock_create()
    assert host.tcp.bind(listener, 0, port) == 0
    assert host.tcp.listen(listener, 5) == 0
    return listener


def connecting(host: TcpHost, port=2049, isn=1000) -> tuple[object, Peer]:
    """Send a SYN from ``host`` to a scripted peer, which has seen it."""
    sk = host.tcp.sock_create()
    assert host.tcp.connect_nonblock(sk, IP_B, port) == -115
    (syn,) = host.sent()
    peer = Peer(host, port, syn.sport, isn)
    peer.saw(syn)
    return sk, peer


def connected(host: TcpHost, port=2049, win=65535, isn=1000, fast_rto=False, mss=MSS_1460) -> tuple[object, Peer]:
    """Open a connection from ``host`` to a scripted peer; with ``fast_rto`` its RTO is the least, 200 ms."""
    sk, peer = connecting(host, port, isn)
    peer.win = win
    (ack,) = peer.send(SYN | ACK, options=mss)
    assert ack.flags == ACK
    assert STATES[sk.sk_state] == "ESTABLISHED"
    if fast_rto:
        sk.srtt = 0
        sk.rto = 50
    return sk, peer


def accepted(host: TcpHost, port=2049, isn=1000, listener=None):
    """Let a scripted peer connect to ``host``; give (listener, connection, peer)."""
    listener = listener or listen_on(host, port)
    peer = Peer(host, 40000 + isn % 1000, port, isn)
    (synack,) = peer.send(SYN, options=MSS_1460)
    assert synack.flags == SYN | ACK
    peer.saw(synack)
    assert peer.send(ACK) == []
    sk = host.tcp.accept(listener, nonblock=True)
    assert sk is not None
    return listener, sk, peer


def state(sk) -> str:
    return STATES[sk.sk_state]


def flags_of(segs: list[Seg]) -> list[int]:
    return [seg.flags for seg in segs]


@contextmanager
def one_tcp(**options) -> Iterator[TcpHost]:
    """Boot one host; its peer is a script."""
    world = World()
    try:
        yield TcpHost(world, **options)
    finally:
        world.shutdown()


class Link:
    """Joins two TcpHosts. ``fate(seg, number)`` gives the delays in ns after which copies arrive: [] is a loss."""

    def __init__(self, world: World, a: TcpHost, b: TcpHost, latency=100_000) -> None:
        self.latency = latency
        self.fate = None
        self.number = 0
        self.log: list[Seg] = []
        world.lookahead_ns = min(world.lookahead_ns, latency)
        a.inet.forward = lambda seg: self.carry(seg, b)
        b.inet.forward = lambda seg: self.carry(seg, a)

    def carry(self, seg: Seg, to: TcpHost) -> None:
        self.log.append(seg)
        delays = [0] if self.fate is None else self.fate(seg, self.number)
        self.number += 1
        for delay in delays:
            to.kernel.cpus[0].post(seg.time + self.latency + delay, to.interrupt, (seg.raw, seg.saddr, seg.daddr))


@contextmanager
def two_tcps(b: dict | None = None, **options) -> Iterator[tuple[World, TcpHost, TcpHost, Link]]:
    """Boot two hosts on a link."""
    world = World()
    try:
        first = TcpHost(world, "a", IP_A, **options)
        second = TcpHost(world, "b", IP_B, **(options if b is None else b))
        yield world, first, second, Link(world, first, second)
    finally:
        world.shutdown()


def transfer(world: World, a: TcpHost, b: TcpHost, data: bytes, *, chunk=10_000, seconds=600) -> tuple[bytes, dict]:
    """Let a task of ``a`` send ``data`` to a task of ``b`` and close; give what arrived and the calls' results."""
    got: list[bytes] = []
    results: dict = {}
    listener = b.tcp.sock_create()
    assert b.tcp.bind(listener, 0, 2049) == 0
    assert b.tcp.listen(listener, 5) == 0

    def server() -> None:
        sk = b.tcp.accept(listener)
        while True:
            piece = b.tcp.recvmsg(sk, 65536)
            if isinstance(piece, int) or not piece:
                results["end"] = piece
                break
            got.append(piece)
        b.tcp.close(sk)
        b.tcp.close(listener)
        results["server done"] = True

    def client() -> None:
        sk = a.tcp.sock_create()
        results["connect"] = a.tcp.connect(sk, IP_B, 2049)
        at = 0
        while at < len(data):
            n = a.tcp.sendmsg(sk, data[at : at + chunk])
            if n < 0:
                results["send"] = n
                break
            at += n
        a.tcp.close(sk)
        results["client done"] = True

    b.kernel.sched.spawn("server", server)
    a.kernel.sched.spawn("client", client)
    world.run(lambda: "client done" in results and "server done" in results, for_ns=seconds * SECOND)
    return b"".join(got), results
