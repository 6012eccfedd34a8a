"""Neighbours: how an address is found, proven and given up."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.errno import EHOSTUNREACH
from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.neighbour import (
    NUD_DELAY,
    NUD_FAILED,
    NUD_INCOMPLETE,
    NUD_NOARP,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    PROBES,
)
from kemu_net.core.sock_struct import SOCK_BROADCAST
from net_ground import IP_A, IP_B, IP_C, MAC_A, MAC_B, MAC_C, two_hosts


@pytest.fixture
def net():
    with two_hosts() as net:
        net.sink = net.b.socket(7)
        yield net


def send(net, payload=b"x", daddr=IP_B):
    sk = net.a.udp.sock_create()
    result = net.a.udp.sendto(sk, payload, daddr, 7)
    net.a.udp.close(sk)
    return result


def arp_frame(op, sha, sip, tha, tip, to=MAC_A):
    return (to + sha + b"\x08\x06" + struct.pack("!HHBBH6sI6sI", 1, 0x0800, 6, 4, op, sha, sip, tha, tip)).ljust(60, b"\0")


def neighbour(net):
    return net.a.inet.arp.table[IP_B]


def test_the_first_packet_asks_and_then_leaves(net):
    send(net)
    assert neighbour(net).state == NUD_INCOMPLETE
    net.run(10)
    assert neighbour(net).state == NUD_REACHABLE
    assert neighbour(net).ha == MAC_B
    assert len(net.sink.sk_receive_queue) == 1


def test_the_request_is_a_broadcast_and_the_answer_is_not(net):
    send(net)
    net.run(10)
    kinds = [(frame[:6], frame[20:22]) for _, frame in net.frames[:2]]
    assert kinds == [(b"\xff" * 6, b"\0\x01"), (MAC_A, b"\0\x02")]


def test_who_is_asked_learns_the_asker_without_proof(net):
    send(net)
    net.run(10)
    assert net.b.inet.arp.table[IP_A].state == NUD_STALE


def test_three_packets_wait_and_a_fourth_pushes_the_oldest_out(net):
    net.wire.cut()
    for number in range(4):
        send(net, bytes((number,)))
    assert [skb.buf[-1] for skb in neighbour(net).queue] == [1, 2, 3]
    assert net.a.stats.ignored == {"neighbour queue full": 1}


def test_no_answer_to_three_requests_is_failure(net):
    net.wire.cut()
    send(net)
    net.run(1000 * PROBES + 100)
    assert neighbour(net).state == NUD_FAILED
    assert net.a.stats.ignored == {"host unreachable": 1}
    assert net.wire.dropped["cut"] == PROBES


def test_a_failed_neighbour_is_asked_again_by_the_next_packet(net):
    net.wire.cut()
    send(net)
    net.run(1000 * PROBES + 100)
    net.wire.mend()
    send(net)
    net.run(10)
    assert len(net.sink.sk_receive_queue) == 1


def test_thirty_seconds_without_proof_make_it_stale(net):
    send(net)
    net.run(46_000)
    assert neighbour(net).state == NUD_STALE


def test_a_proof_from_above_keeps_it_reachable(net):
    send(net)
    net.run(14_000)
    neighbour(net).confirmed = net.a.kernel.sched.jiffies
    net.run(14_000)
    assert neighbour(net).state == NUD_REACHABLE


def test_use_of_a_stale_entry_sends_at_once_and_starts_a_delay(net):
    send(net)
    net.run(46_000)
    sent = net.a.stats.tx_frames
    send(net)
    assert (neighbour(net).state, net.a.stats.tx_frames) == (NUD_DELAY, sent + 1)


def test_a_delay_with_proof_ends_reachable(net):
    send(net)
    net.run(46_000)
    send(net)
    neighbour(net).confirmed = net.a.kernel.sched.jiffies
    net.run(5_100)
    assert neighbour(net).state == NUD_REACHABLE


def test_a_delay_without_proof_probes_and_the_answer_proves(net):
    send(net)
    net.run(46_000)
    send(net)
    frames = len(net.frames)
    net.run(5_100)
    assert neighbour(net).state == NUD_REACHABLE
    assert net.frames[frames][1][:6] == MAC_B  # a unicast question


def test_probes_without_an_answer_fail(net):
    send(net)
    net.run(46_000)
    send(net)
    net.wire.cut()
    net.run(6_000)
    assert neighbour(net).state == NUD_PROBE
    net.run(4_000)
    assert neighbour(net).state == NUD_FAILED


def test_a_new_hardware_address_is_taken(net):
    send(net)
    net.run(10)
    net.flood(arp_frame(2, MAC_C, IP_B, MAC_A, IP_A))
    net.run(1)
    assert neighbour(net).ha == MAC_B  # the first answer counts for a second
    net.run(1100)
    net.flood(arp_frame(2, MAC_C, IP_B, MAC_A, IP_A))
    net.run(1)
    assert neighbour(net).ha == MAC_C
    assert neighbour(net).hh[:6] == MAC_C


def test_an_answer_that_nobody_asked_for_makes_no_entry(net):
    net.flood(arp_frame(2, MAC_C, IP_C, MAC_A, IP_A))
    net.run(1)
    assert IP_C not in net.a.inet.arp.table


def test_a_probe_for_the_own_address_is_answered_without_an_entry(net):
    net.flood(arp_frame(1, MAC_C, 0, b"\0" * 6, IP_A))
    net.run(1)
    assert (len(net.a.inet.arp.table), net.a.stats.tx_frames) == (0, 1)


@pytest.mark.parametrize("cut", [14, 20, 41])
def test_a_short_packet_is_counted(net, cut):
    net.flood(arp_frame(1, MAC_C, IP_C, b"\0" * 6, IP_A)[:cut])
    net.run(1)
    assert net.a.stats.ignored == {"arp: short": 1}


def test_neighbours_are_slab_objects(net):
    send(net)
    assert net.a.in_use("arp_cache") == 1
    net.a.inet.arp.flush()
    assert net.a.in_use("arp_cache") == 1  # a route holds it
    net.a.inet.route.rt_cache_flush()
    assert net.a.in_use("arp_cache") == 0


def test_a_flushed_neighbour_is_made_anew(net):
    send(net)
    net.run(10)
    net.a.inet.arp.flush()
    send(net)
    net.run(10)
    assert len(net.sink.sk_receive_queue) == 2


def test_without_memory_there_is_no_neighbour(net):
    net.a.hog()
    assert net.a.inet.arp.neigh_lookup_create(IP_B) is None
    assert net.a.inet.arp.alloc_failed == 1
    assert HZ == 250


def crowd(net, count: int) -> None:
    """Let so many hosts that nobody knows ask for a."""
    for number in range(count):
        net.a.nic.deliver(
            net.world.now + 60_000 + number * 1000, arp_frame(1, MAC_C, 0x0A010000 + number, b"\0" * 6, IP_A, b"\xff" * 6)
        )
        if number % 100 == 99:
            net.run(5)
    net.run(50)


def test_a_full_table_drops_what_is_not_in_use(net):
    net.a.inet.arp.gc_thresh3 = 16
    send(net)
    net.run(10)
    crowd(net, 40)
    table = net.a.inet.arp.table
    assert len(table) <= 16
    assert neighbour(net).state == NUD_REACHABLE
    assert net.a.in_use("arp_cache") == len(table)


def test_a_table_full_of_those_in_use_takes_no_more(net):
    net.a.inet.arp.gc_thresh3 = 16
    crowd(net, 16)
    for neigh in net.a.inet.arp.table.values():
        neigh.refcnt += 1  # a route
    assert net.a.inet.arp.neigh_lookup_create(IP_C) is None
    assert len(net.a.inet.arp.table) == 16
    for neigh in net.a.inet.arp.table.values():
        net.a.inet.arp.neigh_release(neigh)


def test_a_route_to_a_neighbour_that_was_dropped_finds_its_successor(net):
    send(net, b"1")
    net.run(10)
    table = net.a.inet.arp.table
    old = table[IP_B]
    net.a.inet.arp.flush()
    assert net.a.inet.arp.neigh_lookup_create(IP_B) is not old  # somebody else asked first
    send(net, b"2")
    net.run(10)
    assert len(net.sink.sk_receive_queue) == 2
    assert net.a.inet.route.ip_route_output(IP_B).neigh is table[IP_B]


@pytest.mark.parametrize("successor", [False, True])
def test_a_packet_for_a_neighbour_that_is_gone_is_freed(net, successor):
    send(net)
    net.run(5)
    old = neighbour(net)
    net.a.inet.arp.flush()
    if successor:
        net.a.inet.arp.neigh_lookup_create(IP_B)
    net.run(5)
    live = net.a.skbs.live
    assert net.a.inet.arp.neigh_resolve_output(old, net.a.skbs.alloc_skb(10, GFP_ATOMIC)) == 0
    assert (net.a.skbs.live, net.a.stats.ignored["neighbour gone"]) == (live, 1)


def test_without_memory_for_a_neighbour_the_packet_is_lost_and_the_next_one_tries_again(net):
    send(net)
    net.run(5)
    net.a.inet.arp.flush()
    net.a.inet.arp.neigh_lookup_create = lambda _ip: None
    live = net.a.skbs.live
    assert send(net) == -EHOSTUNREACH
    assert (net.a.skbs.live, net.a.stats.ignored["no neighbour"]) == (live, 1)
    net.a.inet.route.check()
    del net.a.inet.arp.neigh_lookup_create
    assert send(net, b"again") > 0
    net.run(10)
    assert len(net.sink.sk_receive_queue) == 2


def test_a_broadcast_needs_no_question(net):
    sk = net.a.udp.sock_create()
    sk.sk_flags |= SOCK_BROADCAST
    assert net.a.udp.sendto(sk, b"all", IP_A | 0xFF, 7) == 3
    net.run(1)
    ((_, frame),) = net.frames
    assert frame[:6] == b"\xff" * 6
    hop = net.a.inet.arp.table[0xFFFFFFFF]
    assert hop.state == NUD_NOARP
    net.a.inet.arp.neigh_update(hop, MAC_C, NUD_REACHABLE)
    assert (hop.ha, hop.state) == (b"\xff" * 6, NUD_NOARP)


def test_an_entry_in_use_is_proven_again_when_its_time_is_over(net):
    send(net)
    net.run(10)
    neigh = neighbour(net)
    net.run((neigh.timer.expires - net.a.kernel.sched.jiffies) * 4 - 100)
    neigh.used = net.a.kernel.sched.jiffies
    net.run(1_000)
    assert neigh.state == NUD_DELAY
    net.run(8_000)
    assert neigh.state == NUD_REACHABLE  # the unicast question was answered


def test_without_memory_a_question_counts_as_asked(net):
    net.a.skbs.alloc_skb = lambda *_args: None
    net.a.inet.arp.arp_send(1, IP_B, MAC_B, b"\0" * 6)
    assert net.a.inet.arp.alloc_failed == 1
    assert net.frames == []


def test_a_neighbour_says_what_it_is(net):
    send(net)
    assert repr(neighbour(net)) == "<neighbour 0x0a000002 - INCOMPLETE queued 1>"
    net.run(10)
    assert repr(neighbour(net)) == "<neighbour 0x0a000002 02:00:00:00:00:02 REACHABLE queued 0>"
