"""Neighbours: how an address is found, proven and given up."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.timer import HZ
from kemu_net.ipv4.arp import (
    NUD_DELAY,
    NUD_FAILED,
    NUD_INCOMPLETE,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    PROBES,
)
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
    net.run(2)
    assert neighbour(net).state == NUD_REACHABLE
    assert neighbour(net).ha == MAC_B
    assert len(net.sink.sk_receive_queue) == 1


def test_the_request_is_a_broadcast_and_the_answer_is_not(net):
    send(net)
    net.run(2)
    kinds = [(frame[:6], frame[20:22]) for _, frame in net.frames[:2]]
    assert kinds == [(b"\xff" * 6, b"\0\x01"), (MAC_A, b"\0\x02")]


def test_who_is_asked_learns_the_asker_without_proof(net):
    send(net)
    net.run(2)
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
    net.run(3)
    assert len(net.sink.sk_receive_queue) == 1


def test_thirty_seconds_without_proof_make_it_stale(net):
    send(net)
    net.run(31_000)
    assert neighbour(net).state == NUD_STALE


def test_a_proof_from_above_keeps_it_reachable(net):
    send(net)
    net.run(29_000)
    neighbour(net).confirmed = net.a.kernel.sched.jiffies
    net.run(20_000)
    assert neighbour(net).state == NUD_REACHABLE


def test_use_of_a_stale_entry_sends_at_once_and_starts_a_delay(net):
    send(net)
    net.run(31_000)
    sent = net.a.stats.tx_frames
    send(net)
    assert (neighbour(net).state, net.a.stats.tx_frames) == (NUD_DELAY, sent + 1)


def test_a_delay_with_proof_ends_reachable(net):
    send(net)
    net.run(31_000)
    send(net)
    neighbour(net).confirmed = net.a.kernel.sched.jiffies
    net.run(5_100)
    assert neighbour(net).state == NUD_REACHABLE


def test_a_delay_without_proof_probes_and_the_answer_proves(net):
    send(net)
    net.run(31_000)
    send(net)
    frames = len(net.frames)
    net.run(5_100)
    assert neighbour(net).state == NUD_REACHABLE
    assert net.frames[frames][1][:6] == MAC_B  # a unicast question


def test_probes_without_an_answer_fail(net):
    send(net)
    net.run(31_000)
    send(net)
    net.wire.cut()
    net.run(6_000)
    assert neighbour(net).state == NUD_PROBE
    net.run(4_000)
    assert neighbour(net).state == NUD_FAILED


def test_a_new_hardware_address_is_taken(net):
    send(net)
    net.run(2)
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
    assert net.a.in_use("arp_cache") == 0


def test_a_flushed_neighbour_is_made_anew(net):
    send(net)
    net.run(2)
    net.a.inet.arp.flush()
    send(net)
    net.run(3)
    assert len(net.sink.sk_receive_queue) == 2


def test_without_memory_there_is_no_neighbour(net):
    net.a.hog()
    assert net.a.inet.arp.neigh_lookup_create(IP_B) is None
    assert net.a.inet.arp.alloc_failed == 1
    assert HZ == 250
