"""The receive ring: which frame finds a buffer, and what becomes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_BROADCAST, PACKET_HOST, PACKET_MULTICAST, skb_bytes
from kemu_net.drivers.rx_ring import RxRing, split_point, verify_checksum
from net_ground import IP_A, MAC_A, MAC_B, MIB, one_host, two_hosts, udp_frame

pytestmark = pytest.mark.keeps_skbs("the tests hold skbs in their hands")


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        yield net


def test_a_frame_for_somebody_else_is_ignored(net):
    frame = udp_frame()
    other = b"\x02\0\0\0\0\x55" + frame[6:]
    net.flood(other)
    received = net.a.stats.rx_frames
    net.run(1)
    assert net.a.stats.rx_frames == received
    assert net.a.stats.ignored["not for this NIC"] == 1


@pytest.mark.parametrize("frame", [b"", b"\x02", MAC_A + MAC_B + b"\x08", MAC_A + bytes(3000)])
def test_runts_and_giants_are_ignored(net, frame):
    net.flood(frame)
    net.run(1)
    assert net.a.stats.ignored["not for this NIC"] == 1


def test_the_ring_is_full_again_after_a_poll(net):
    net.flood(udp_frame(), 100)
    net.run(2)
    assert len(net.a.nic.rx.buffers) == 256
    net.a.slub.check()


def test_more_frames_than_descriptors_are_lost_at_the_nic(net):
    # all of them arrive while interrupts are disabled
    net.a.kernel.sched.local_irq_save()
    frame = udp_frame()
    now = net.a.kernel.sched.now
    for index in range(300):
        net.a.nic.rx.arrive(now + index, frame)
    net.a.nic.rx.dma(now + 300)
    assert net.a.stats.drops["nic"] == 300 - 256
    net.a.kernel.sched.local_irq_restore(0)


def test_a_checksum_is_verified_in_hardware(net):
    seen = []
    net.a.dev.ptype_all.append(lambda skb: (seen.append(skb.ip_summed), net.a.skbs.kfree_skb(skb)))
    net.flood(udp_frame())
    net.run(1)
    assert seen[0] == CHECKSUM_UNNECESSARY


def test_without_the_hardware_software_verifies():
    with two_hosts(rx_checksum=False) as net:
        net.greet()
        sk = net.a.socket(7)
        frame = bytearray(udp_frame())
        net.flood(bytes(frame))
        frame[-1] ^= 1
        net.flood(bytes(frame))
        net.run(1)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"x" * 100
        assert net.a.udp.recvfrom(sk, nonblock=True) == -EAGAIN
        assert net.a.stats.ignored["udp: checksum"] == 1


def test_verify_checksum_sees_a_flipped_bit():
    frame = bytearray(udp_frame(b"odd"))
    assert verify_checksum(bytes(frame))
    frame[43] ^= 0x10
    assert not verify_checksum(bytes(frame))


def test_split_finds_the_end_of_the_headers():
    assert split_point(udp_frame(b"x")) == (42, 43)
    assert split_point(b"\0" * 200) == (128, 200)


def test_jumbo_frames_get_jumbo_buffers():
    with two_hosts(mtu=9000, mem=64 * MIB, ring=64) as net:
        net.greet()
        sk = net.a.socket(7)
        assert net.b.udp.sendto(net.b.udp.sock_create(), b"j" * 8000, IP_A, 7) == 8000
        net.run(1)
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"j" * 8000


def ring_of(host, **options):
    settings = {"size": 8, "data_size": 1536, "pages": 0, "checksum": True} | options
    return RxRing(host.kernel, host.skbs, MAC_A, **settings)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=20))
def test_frames_come_out_in_the_order_of_their_arrival(times):
    with one_host() as host:
        ring = ring_of(host, size=32)
        ring.refill()
        for number, time in enumerate(times):
            ring.arrive(time, MAC_A + bytes([number]) * 60)
        assert ring.dma(50) == len(times)
        order = [time for time, _ in sorted(zip(times, range(len(times)), strict=True))]
        got = [times[frame[6]] for _, frame in ring.done]
        assert got == order
        ring.close()


def test_frames_of_one_time_keep_their_order():
    with one_host() as host:
        ring = ring_of(host)
        ring.refill()
        for number, time in enumerate((5, 3, 5, 3)):
            ring.arrive(time, MAC_A + bytes([number]) * 60)
        ring.dma(5)
        assert [frame[6] for _, frame in ring.done] == [1, 3, 0, 2]


def test_what_has_not_arrived_yet_stays_outside():
    with one_host() as host:
        ring = ring_of(host)
        ring.refill()
        for time in (10, 20, 30):
            ring.arrive(time, udp_frame())
        assert [ring.dma(now) for now in (9, 10, 29, 30)] == [0, 1, 2, 3]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["arrive", "take", "refill"]), st.integers(1, 6)), max_size=25), st.integers(0, 2))
def test_every_frame_is_taken_or_counted(steps, pages):
    with one_host() as host:
        ring = ring_of(host, pages=pages)
        sent = taken = now = 0
        for kind, count in steps:
            for _ in range(count):
                if kind == "arrive":
                    now += 1
                    ring.arrive(now, udp_frame())
                    sent += 1
                elif kind == "take" and ring.dma(now):
                    skb = ring.take()
                    assert skb_bytes(skb) == udp_frame()[14:142]
                    host.skbs.kfree_skb(skb)
                    taken += 1
                elif kind == "refill":
                    ring.dma(now)  # the hardware's losses are those of now
                    ring.refill()
            assert len(ring.buffers) + len(ring.done) <= 8
        ring.dma(now)
        assert sent == taken + len(ring.done) + host.stats.drops["nic"]
        ring.close()
        assert (host.skbs.live, len(ring.done), len(ring.buffers)) == (0, 0, 0)
        host.page_alloc.check()


def test_a_descriptor_without_all_its_pages_gets_nothing():
    with one_host() as host:
        ring = ring_of(host, pages=3)
        pages = [host.page_alloc.alloc_pages(GFP_ATOMIC, 0) for _ in range(4)]
        left = list(pages)
        host.skbs.netdev_alloc_page = lambda _dev: left.pop() if left else None
        ring.refill()
        assert len(ring.buffers) == 1
        assert (ring.starved, ring.alloc_failed) == (True, 1)
        assert [page.count for page in pages] == [0, 1, 1, 1]
        assert host.skbs.live == 1


def test_a_loss_behind_a_refused_charge_is_counted_as_that():
    with one_host() as host:
        host.swap_over_network()
        ring = ring_of(host)
        while host.net_reserves.rx_emergency_get(64):
            pass
        host.skbs.slub.kmem_cache_alloc = lambda *_args: None
        ring.refill()
        assert ring.charge_refused and not ring.buffers
        ring.arrive(1, udp_frame())
        ring.dma(1)
        assert (host.stats.drops["charge"], host.stats.drops["nic"]) == (1, 0)


@pytest.mark.parametrize(
    ("mac", "kind"), [(MAC_A, PACKET_HOST), (b"\xff" * 6, PACKET_BROADCAST), (b"\x01\0\x5e\0\0\1", PACKET_MULTICAST)]
)
def test_the_address_tells_the_kind_of_a_packet(mac, kind):
    with one_host() as host:
        ring = ring_of(host)
        ring.refill()
        ring.arrive(0, mac + udp_frame()[6:])
        ring.dma(0)
        skb = ring.take()
        assert (skb.pkt_type, skb.protocol) == (kind, 0x0800)


@given(st.binary(max_size=200), st.integers(0, 250), st.integers(0, 7))
def test_hardware_verifies_what_software_would(payload, at, bit):
    """A flipped bit in the segment is never taken for right."""
    frame = bytearray(udp_frame(payload)[: 42 + len(payload)])
    assert verify_checksum(bytes(frame))
    at = min(34 + at, len(frame) - 1)
    frame[at] ^= 1 << bit
    assert not verify_checksum(bytes(frame))


@given(st.binary(max_size=200))
def test_any_bytes_can_be_split_and_verified(frame):
    header, end = split_point(frame)
    assert header <= end <= max(len(frame), header)
    assert header <= 128
    assert verify_checksum(frame) in (True, False)
