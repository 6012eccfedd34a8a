"""TCP over the real NIC, wire, ARP and IP."""

from __future__ import annotations

import hashlib
import struct
from contextlib import contextmanager

import pytest

from kemu.kernel.core import Kernel
from kemu.kernel.world import World
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu_net.core.checksum import csum_ok
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack

MIB = 1 << 20
SECOND = 1_000_000_000
IP_A, IP_B = 0x0A000001, 0x0A000002


class Box:
    """One machine with a whole network stack."""

    def __init__(self, world, wire, name, last, *, ncpus=1, **options):
        self.kernel = Kernel(name, world, ncpus)
        self.page_alloc = PageAllocator(self.kernel, 64 * MIB)
        self.slub = Slub(self.kernel, self.page_alloc)
        reserves = Reserves(self.kernel, self.page_alloc, self.slub)
        mac = bytes((2, 0, 0, 0, 0, last))
        self.net = NetStack(self.kernel, self.page_alloc, self.slub, reserves, wire, mac=mac, ip=0x0A000000 + last, **options)


@contextmanager
def boxes(*, vehicle=None, seed=0, wire=None, **options):
    world = World(seed, vehicle)
    try:
        cable = Wire(world, **(wire or {}))
        yield world, cable, Box(world, cable, "a", 1, **options), Box(world, cable, "b", 2, **options)
    finally:
        world.shutdown()


def _write_pages(world, a, b, count):
    """Send ``count`` pages from a to b, each behind a header, and one line back; give what arrived at b and at a."""
    got, answer = [], []

    def server():
        tcp = b.net.tcp
        listener = tcp.sock_create()
        tcp.bind(listener, 0, 2049)
        tcp.listen(listener, 5)
        sk = tcp.accept(listener)
        total = 0
        while total < count * 4196:
            piece = tcp.recvmsg(sk, 65536)
            assert isinstance(piece, bytes) and piece
            got.append(piece)
            total += len(piece)
        tcp.sendmsg(sk, b"thanks")
        tcp.close(sk)
        tcp.close(listener)

    def client():
        tcp = a.net.tcp
        sk = tcp.sock_create()
        a.kernel.sched.msleep(10)
        assert tcp.connect(sk, IP_B, 2049) == 0
        for n in range(count):
            page = a.page_alloc.alloc_pages(GFP_KERNEL)
            page.contents = bytes([n % 256]) * 4096
            assert tcp.sendmsg(sk, bytes([n % 251]) * 100, more=True) == 100
            at = 0
            while at < 4096:
                at += tcp.sendpage(sk, page, at, 4096 - at)
            a.page_alloc.put_page(page)
        answer.append(tcp.recvmsg(sk, 100))
        tcp.close(sk)

    b.kernel.sched.spawn("server", server)
    task = a.kernel.sched.spawn("client", client)
    world.run(lambda: task.exit_code is not None, for_ns=600 * SECOND)
    world.run(for_ns=130 * SECOND)
    return b"".join(got), answer


def _expected(count):
    return b"".join(bytes([n % 251]) * 100 + bytes([n % 256]) * 4096 for n in range(count))


def _nothing_left(*machines):
    for box in machines:
        box.net.check()
        assert not box.net.socks.live and not box.net.tcp.ehash
        assert box.slub.objects_in_use(box.slub.caches["TCP"]) == 0
        assert box.slub.objects_in_use(box.slub.caches["skbuff_fclone_cache"]) == 0


@pytest.mark.parametrize("options", [{}, {"packet_split": True}, {"mtu": 9000}, {"ncpus": 2}, {"rx_checksum": False}], ids=str)
def test_pages_arrive(options):
    with boxes(**options) as (world, _wire, a, b):
        got, answer = _write_pages(world, a, b, 100)
        assert got == _expected(100)
        assert answer == [b"thanks"]
        _nothing_left(a, b)


def test_pages_arrive_over_a_bad_cable():
    with boxes(wire={"loss": 0.02, "reorder": 0.05, "duplicate": 0.02, "corrupt": 0.02, "seed": 3}) as (world, _wire, a, b):
        got, answer = _write_pages(world, a, b, 60)
        assert got == _expected(60)
        assert answer == [b"thanks"]
        assert a.net.stats.retransmits > 0
        _nothing_left(a, b)


def test_every_frame_has_right_checksums():
    with boxes() as (world, wire, a, b):
        frames = []
        wire.taps.append(lambda _time, frame: frames.append(frame))
        _write_pages(world, a, b, 20)
        checked = 0
        for frame in frames:
            if frame[12:14] == b"\x08\x00" and frame[23] == 6:
                total, saddr, daddr = struct.unpack_from("!H8xII", frame, 16)
                assert csum_ok(frame[14:34])
                segment = frame[34 : 14 + total]
                assert csum_ok(segment, saddr + daddr + 6 + len(segment))
                checked += 1
        assert checked > 60


def test_one_history_on_both_vehicles():
    histories = []
    for vehicle in ("greenlet", "threads"):
        with boxes(vehicle=vehicle, wire={"loss": 0.02, "seed": 1}) as (world, wire, a, b):
            digest = hashlib.sha256()
            wire.taps.append(lambda time, frame, digest=digest: digest.update(struct.pack("!Q", time) + frame))
            _write_pages(world, a, b, 20)
            histories.append((digest.hexdigest(), world.history.hexdigest()))
    assert histories[0] == histories[1]


def test_loopback():
    with boxes() as (world, _wire, a, _b):
        tcp = a.net.tcp
        results = []

        def server():
            listener = tcp.sock_create()
            tcp.bind(listener, 0, 80)
            tcp.listen(listener, 5)
            sk = tcp.accept(listener)
            results.append(tcp.recvmsg(sk, 100))
            tcp.close(sk)
            tcp.close(listener)

        a.kernel.sched.spawn("server", server)
        world.run(for_ns=SECOND)
        sk = tcp.sock_create()
        assert tcp.connect(sk, IP_A, 80) == 0
        assert tcp.sendmsg(sk, b"to myself") == 9
        tcp.close(sk)
        world.run(for_ns=200 * SECOND)
        assert results == [b"to myself"]
        _nothing_left(a)
