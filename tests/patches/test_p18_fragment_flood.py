"""Patch 18's experiment: fragments of datagrams that never become whole, at the floor, with IPv6 built in and without.

The evictor counts truesize (1832 for a ring buffer), the reserve counts powers of two (2048). With both families the budget is
524288 bytes, and the evictor (262144) comes first; with IPv4 alone the budget is what the evictor allows, and is used up first.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from kemu.kernel.errno import ENOMEM
from kemu.kernel.timer import HZ
from kemu_net.ipv4.ip_fragment import SIZEOF_IPQ
from leaks import assert_nothing_charged
from net_ground import MAC_A, MAC_B, ip_packet, two_hosts, udp_frame

TRUESIZE = 1832
CHARGE = 2048
RING = 16
HIGH = 262144


def fragment(ident: int, offset: int = 0, payload: bytes = b"x" * 8) -> bytes:
    """Make a frame with a fragment, more of which follow."""
    packet = bytearray(ip_packet(17, payload, fragment=0x2000 | offset >> 3))
    check = int.from_bytes(packet[10:12], "big") + 1 - ident
    packet[4:6] = ident.to_bytes(2, "big")
    packet[10:12] = (check % 65535).to_bytes(2, "big")
    return (MAC_A + MAC_B + b"\x08\x00" + bytes(packet)).ljust(60, b"\0")


@contextmanager
def at_the_floor(**options):
    """Boot two hosts, let the first swap and fall to the floor, and let its ring hold nothing but charged buffers."""
    with two_hosts(b={}, ring=RING, **options) as net:
        net.greet()
        net.a.swap_over_network()
        ring = net.a.nic.rx
        while ring.buffers:
            ring._free_buffer(ring.buffers.popleft())
        net.a.hog()
        ring.refill()
        yield net


def flood(net, frames) -> None:
    """Put fragments on the wire, in handfuls that the ring can take."""
    for start in range(0, len(frames), 4):
        now = net.world.now + 60_000
        for index, frame in enumerate(frames[start : start + 4]):
            net.a.nic.deliver(now + index * 1000, frame)
        net.run(2)


def held(net) -> int:
    return sum(len(queue.fragments) for queue in net.a.inet.frags.queues.values())


def give_back(net) -> None:
    """Let the timers fire and memory come back, and let the ring use its charged buffers up."""
    net.a.unhog()
    net.run(31_000)
    for _ in range(3):
        net.flood(udp_frame(b"nobody", dport=99), RING)
        net.run(50)
    assert net.a.inet.frags.mem == 0
    assert net.a.usage == 0
    assert_nothing_charged(net.a.reserves.root)


def first_fragments(count: int) -> list[bytes]:
    return [fragment(1000 + number) for number in range(count)]


def pieces_of_one(count: int) -> list[bytes]:
    """Pieces of one datagram, its first one included, its last one not: one queue, so that fragments alone count."""
    return [fragment(7, 8 * number) for number in range(count)]


def test_a_ring_buffer_counts_1832_here_and_2048_there():
    with at_the_floor() as net:
        assert net.a.usage == RING * CHARGE
        flood(net, pieces_of_one(1))
        assert net.a.inet.frags.mem == TRUESIZE + SIZEOF_IPQ
        assert net.a.usage == (RING + 1) * CHARGE
        give_back(net)


def test_143_fragments_fit_and_the_144th_calls_the_evictor():
    """143 * 1832 < 262144 < 144 * 1832; the evictor looks when the next fragment comes."""
    assert 143 * TRUESIZE < HIGH < 144 * TRUESIZE
    with at_the_floor() as net:
        net.a.inet.frags.max_dist = 0
        flood(net, pieces_of_one(143))
        assert (held(net), net.a.inet.frags.evicted) == (143, 0)
        assert net.a.inet.frags.mem == 143 * TRUESIZE + SIZEOF_IPQ <= HIGH
        flood(net, [fragment(7, 8 * 143)])
        assert (held(net), net.a.inet.frags.evicted) == (144, 0)
        assert net.a.inet.frags.mem > HIGH
        flood(net, [fragment(8)])
        assert (held(net), net.a.inet.frags.evicted) == (1, 1)
        give_back(net)


def test_with_ipv6_the_evictor_comes_first_and_reception_goes_on():
    with at_the_floor(ipv6=True) as net:
        assert net.a.net_reserves.net_skb_reserve.limit == 2 * HIGH
        limit = HIGH // (TRUESIZE + SIZEOF_IPQ)  # each first fragment has a queue of its own
        flood(net, first_fragments(400))
        assert net.a.inet.frags.evicted > 0
        assert held(net) <= limit + 1
        assert net.a.stats.drops["charge"] == 0
        assert net.a.usage < 255 * CHARGE
        sk = net.a.socket(7)
        net.a.socks.sk_set_memalloc(sk)
        flood(net, [udp_frame(b"still here")])
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"still here"
        net.a.socks.sk_clear_memalloc(sk)
        net.a.udp.close(sk)
        give_back(net)


def test_without_ipv6_127_charges_are_the_end_of_reception():
    with at_the_floor(ipv6=False) as net:
        assert net.a.net_reserves.net_skb_reserve.limit == HIGH
        flood(net, first_fragments(200))
        assert net.a.usage == 127 * CHARGE
        assert held(net) == 127  # the ring is dry
        assert net.a.inet.frags.evicted == 0
        assert net.a.stats.drops["charge"] == 200 - 127
        assert net.a.inet.frags.mem == 127 * (TRUESIZE + SIZEOF_IPQ) < HIGH
        give_back(net)


def test_without_ipv6_reception_begins_again_when_the_timers_fire():
    with at_the_floor(ipv6=False) as net:
        began = net.a.kernel.sched.jiffies
        flood(net, first_fragments(200))
        sk = net.a.socket(7)
        net.a.socks.sk_set_memalloc(sk)
        while net.a.kernel.sched.jiffies < began + 29 * HZ:
            flood(net, [udp_frame(b"anybody?")])
            net.run(1000)
        assert net.a.udp.recvfrom(sk, nonblock=True) == -11
        net.run(5000)  # the timers, and the watchdog that refills a dry ring
        assert net.a.inet.frags.mem == 0
        flood(net, [udp_frame(b"anybody?")])
        assert net.a.udp.recvfrom(sk, nonblock=True)[0] == b"anybody?"
        net.a.socks.sk_clear_memalloc(sk)
        net.a.udp.close(sk)
        give_back(net)


@pytest.mark.parametrize(("ipv6", "most"), [(True, 255), (False, 127)])
def test_the_evictor_off_the_budget_is_255_or_127_buffers(ipv6, most):
    with at_the_floor(ipv6=ipv6) as net:
        net.a.inet.frags.high_thresh = 1 << 30
        flood(net, first_fragments(300))
        assert (net.a.usage, held(net)) == (most * CHARGE, most)
        give_back(net)


def test_with_normal_memory_nothing_is_charged():
    with two_hosts(b={}, ring=RING, ipv6=False) as net:
        net.greet()
        net.a.swap_over_network()
        flood(net, first_fragments(400))
        assert net.a.usage == 0
        assert net.a.inet.frags.evicted > 0
        net.run(31_000)


def test_without_the_patch_there_is_no_budget_and_the_ring_runs_dry():
    with at_the_floor(patches="all,-18", ipv6=False) as net:
        flood(net, first_fragments(20))
        assert held(net) == 0
        assert net.a.usage == 0
        assert net.a.stats.drops["charge"] >= 20
        assert net.a.stats.emergency_skbs == 0
        give_back(net)


def test_a_lower_threshold_lowers_budget_and_evictor_together():
    with at_the_floor() as net:
        assert net.a.kernel.sysctl.write("net.ipv4.ipfrag_low_thresh", "20000") == 0
        assert net.a.kernel.sysctl.write("net.ipv4.ipfrag_high_thresh", "65536") == 0
        assert net.a.net_reserves.net_skb_reserve.limit == HIGH + 65536
        flood(net, first_fragments(60))
        assert held(net) <= 65536 // (TRUESIZE + SIZEOF_IPQ) + 1
        assert net.a.inet.frags.evicted > 0
        give_back(net)


def test_b18a_sysctl_2_lets_fragments_hold_more_than_the_budget():
    with at_the_floor(fixes="none", ipv6=False) as net:
        assert net.a.inet_reserves.sysctl_binary("net.ipv4.ipfrag_high_thresh", 2 * HIGH) == 0
        assert net.a.inet.frags.high_thresh == 2 * HIGH
        assert net.a.net_reserves.net_skb_reserve.limit == HIGH
        flood(net, first_fragments(200))
        assert net.a.inet.frags.evicted == 0
        assert net.a.stats.drops["charge"] > 0
        give_back(net)


def test_b18a_mended_the_budget_follows_the_variable():
    with two_hosts(b={}, ring=RING, ipv6=False) as net:
        net.a.swap_over_network()
        assert net.a.inet_reserves.sysctl_binary("net.ipv4.ipfrag_high_thresh", 2 * HIGH) == 0
        assert net.a.net_reserves.net_skb_reserve.limit == net.a.inet.frags.high_thresh == 2 * HIGH


def test_b18a_mended_a_reserve_that_cannot_grow_refuses_both():
    with at_the_floor(ipv6=False) as net:
        assert net.a.inet_reserves.sysctl_binary("net.ipv4.ipfrag_high_thresh", 2 * HIGH) == -ENOMEM
        assert net.a.net_reserves.net_skb_reserve.limit == net.a.inet.frags.high_thresh == HIGH
        give_back(net)
