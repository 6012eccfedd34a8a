"""Test helper: hosts with memory, a NIC, IPv4 and UDP on one wire, and ways to starve them. TCP is not part of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.world import World
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL, PAGE_SIZE
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu.patches import PatchSet
from kemu_net.core.checksum import csum_fold, csum_partial, csum_tcpudp_magic
from kemu_net.core.dev import Dev
from kemu_net.core.net_reserve import NetReserves
from kemu_net.core.skb_alloc import SkbAlloc
from kemu_net.core.skb_variants import skb_alloc_class
from kemu_net.core.skbuff import skb_put_bytes
from kemu_net.core.sock import Socks
from kemu_net.core.stats import NetStats
from kemu_net.drivers.nic import Nic
from kemu_net.drivers.wire import Wire
from kemu_net.ipv4.inet import Inet
from kemu_net.ipv4.inet_reserves import InetReserves
from kemu_net.ipv4.udp import Udp
from kemu_net.ipv6.inet6 import Inet6
from kemu_net.ipv6.reserves import IP6_RT_MAX_SIZE, IP6FRAG_HIGH_THRESH
from kemu_net.netfilter.core import NfHooks

MIB = 1 << 20
MAC_A, MAC_B, MAC_C = (bytes((2, 0, 0, 0, 0, last)) for last in (1, 2, 3))
IP_A, IP_B, IP_C = 0x0A000001, 0x0A000002, 0x0A000003
IP6_PREFIX = 0x20010DB8 << 96
MS = 1_000_000


def ip_packet(proto: int, segment: bytes, *, saddr: int = IP_B, daddr: int = IP_A, fragment: int = 0x4000, ttl: int = 64) -> bytes:
    """Make an IPv4 packet."""
    header = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(segment), 1, fragment, ttl, proto, 0, saddr, daddr)
    return header[:10] + csum_fold(csum_partial(header)).to_bytes(2, "big") + header[12:] + segment


def udp_frame(payload: bytes = b"x" * 100, dport: int = 7, *, saddr: int = IP_B, daddr: int = IP_A, sport: int = 9) -> bytes:
    """Make a frame from b to a with one datagram."""
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    udp = udp[:6] + (csum_tcpudp_magic(saddr, daddr, 17, udp) or 0xFFFF).to_bytes(2, "big") + payload
    return (MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, udp, saddr=saddr, daddr=daddr)).ljust(60, b"\0")


class Host:
    """One machine with a network but without TCP."""

    def __init__(self, world, wire, name, mac, ip, *, patches="all", fixes="all", mem=32 * MIB, ncpus=1, ipv6=True, **nic):
        self.kernel = kernel = Kernel(name, world, ncpus, PatchSet.parse(patches), FixSet.parse(fixes))
        self.page_alloc = PageAllocator(kernel, mem)
        self.slub = Slub(kernel, self.page_alloc)
        self.reserves = Reserves(kernel, self.page_alloc, self.slub)
        self.stats = NetStats()
        self.net_reserves = NetReserves(kernel, self.reserves)
        allocator = skb_alloc_class(nic.pop("rx_buffers", "kmalloc"), nic.pop("recycle", False))
        self.skbs = allocator(kernel, self.page_alloc, self.slub, self.net_reserves, self.stats)
        self.dev = Dev(kernel, self.skbs)
        self.nic = Nic(kernel, self.dev, wire, mac, **nic)
        self.nf = NfHooks(kernel, self.skbs)
        self.inet = Inet(kernel, self.dev, self.slub, self.nic, ip, self.page_alloc.total_pages, nf=self.nf)
        self.socks = Socks(kernel, self.page_alloc, self.slub, self.net_reserves, self.skbs, self.stats)
        self.udp = Udp(kernel, self.socks, self.skbs, self.inet, self.stats)
        self.inet6 = Inet6(kernel, self.dev, self.slub, self.nic, IP6_PREFIX | ip) if ipv6 else None
        ip6 = None if self.inet6 is None else (self.inet6.route.cache, IP6_RT_MAX_SIZE, IP6FRAG_HIGH_THRESH)
        self.inet_reserves = InetReserves(kernel, self.reserves, self.net_reserves, self.inet.route, ip6)
        self.inet_reserves.bind(self.inet.tunables)
        if self.inet6 is not None:
            self.inet_reserves.bind(self.inet6.tunables)
        self.hogged: list[int] = []

    @property
    def task(self):
        return self.kernel.sched.current

    @property
    def usage(self) -> int:
        """What is charged to the SKB data reserve."""
        return self.net_reserves.net_skb_reserve.usage

    def swap_over_network(self) -> None:
        """Connect the reserve as one socket that carries swap would."""
        assert self.net_reserves.sk_adjust_memalloc(1, 49) == 0

    def hog(self) -> None:
        """Be the leaky driver: take every kmalloc class with GFP_ATOMIC until NULL, so that no slab has slack.

        Large blocks first: that is quicker, and what is left at the end is the same.
        """
        for size in (1 << 21, 1 << 18, 1 << 15, 4096, 2048, 1024, 512, 256, 192, 128, 96, 64, 32, 16, 8):
            while (addr := self.slub.kmalloc(size, GFP_ATOMIC | _GFP_NOWARN)) is not None:
                self.hogged.append(addr)
        for cache in (self.skbs.skbuff_head_cache, self.inet.route.ip_dst_cache, self.inet.arp.arp_cache):
            while self.slub.kmem_cache_alloc(cache, GFP_ATOMIC | _GFP_NOWARN) is not None:
                pass

    def unhog(self) -> None:
        """Give the kmalloc memory back."""
        while self.hogged:
            self.slub.kfree(self.hogged.pop())

    def socket(self, port: int):
        """Make a bound UDP socket."""
        sk = self.udp.sock_create()
        assert sk is not None
        assert self.udp.bind(sk, 0, port) == 0
        return sk

    def in_use(self, name: str) -> int:
        """Count the live objects of a cache."""
        return self.slub.objects_in_use(self.slub.caches[name])


class Net:
    """Two hosts, a and b, on one wire."""

    def __init__(self, world: World, wire: Wire, a: Host, b: Host) -> None:
        self.world = world
        self.wire = wire
        self.a = a
        self.b = b
        self.frames: list[tuple[int, bytes]] = []
        wire.taps.append(lambda time, frame: self.frames.append((time, frame)))

    def run(self, ms: int) -> None:
        self.world.run(for_ns=ms * MS)

    def flood(self, frame: bytes, count: int = 1) -> None:
        """Put frames into a's cable as the wire would, a microsecond apart."""
        now = self.world.now + 60_000
        for index in range(count):
            self.a.nic.deliver(now + index * 1000, frame)

    def greet(self) -> None:
        """Let both hosts know each other's hardware address."""
        sk = self.b.socket(9999)
        out = self.a.socket(9998)
        assert self.a.udp.sendto(out, b"hello", IP_B, 9999) == 5
        self.run(10)
        assert self.b.udp.recvfrom(sk, nonblock=True)[0] == b"hello"
        self.b.udp.sendto(sk, b"hello", IP_A, 9998)
        self.run(10)
        self.a.udp.recvfrom(out, nonblock=True)
        self.b.udp.close(sk)
        self.a.udp.close(out)


def filled(skbs: SkbAlloc, payload: bytes, flags: int = 0):
    """Make an skb with a linear payload."""
    skb = skbs.alloc_skb(len(payload), GFP_ATOMIC, flags)
    skb_put_bytes(skb, payload)
    return skb


def with_page(host: Host, payload: bytes, contents: bytes):
    """Make an skb with a linear payload and one page behind it; give both."""
    skb = filled(host.skbs, payload)
    page = host.page_alloc.alloc_pages(GFP_KERNEL, 0)
    page.contents = contents.ljust(PAGE_SIZE, b"\0")
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, len(contents))
    return skb, page


@contextmanager
def one_host(**options) -> Iterator[Host]:
    """Boot one host whose wire ends nowhere; its NIC is not opened."""
    world = World()
    try:
        yield Host(world, Wire(world), "a", MAC_A, IP_A, **options)
    finally:
        world.shutdown()


@contextmanager
def two_hosts(*, wire: dict | None = None, b: dict | None = None, **options) -> Iterator[Net]:
    """Boot two hosts; ``options`` are those of the first and, unless ``b`` says otherwise, of the second."""
    world = World()
    try:
        cable = Wire(world, **(wire or {}))
        first = Host(world, cable, "a", MAC_A, IP_A, **options)
        second = Host(world, cable, "b", MAC_B, IP_B, **(options if b is None else b))
        first.nic.open()
        second.nic.open()
        yield Net(world, cable, first, second)
    finally:
        world.shutdown()
