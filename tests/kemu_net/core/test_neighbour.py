"""The neighbour table: what ARP's tests do not show."""

from __future__ import annotations

import pytest

from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.neighbour import (
    NUD_DELAY,
    NUD_FAILED,
    NUD_INCOMPLETE,
    NUD_NONE,
    NUD_PROBE,
    NUD_REACHABLE,
    NUD_STALE,
    NeighTable,
)
from net_ground import IP_A, IP_B, IP_C, MAC_A, MAC_B, MAC_C, ip_packet, two_hosts


@pytest.fixture
def net():
    with two_hosts() as net:
        net.asked = []
        arp = net.a.inet.arp
        send = arp.arp_send

        def arp_send(op, target_ip, dest, target_ha):
            if op == 1:
                net.asked.append(dest)
            send(op, target_ip, dest, target_ha)

        arp.arp_send = arp_send
        yield net


@pytest.fixture
def arp(net):
    return net.a.inet.arp


def packet(net, payload=b"x"):
    """Make a packet as IP hands it to a neighbour."""
    skb = net.a.skbs.alloc_skb(100, GFP_ATOMIC)
    skb.buf = ip_packet(253, payload, saddr=IP_A, daddr=IP_B)
    skb.len = len(skb.buf)
    return skb


def asked(net) -> list[bytes]:
    """Give whom a asked, cut wire or not."""
    return net.asked


def frame(op, sha, sip, tip, to=MAC_A) -> bytes:
    body = b"\0\1\x08\0\6\4" + op.to_bytes(2, "big") + sha + sip.to_bytes(4, "big") + MAC_A + tip.to_bytes(4, "big")
    return (to + sha + b"\x08\x06" + body).ljust(60, b"\0")


def test_the_first_question_is_the_timers(net, arp):
    neigh = arp.neigh_lookup_create(IP_B)
    arp.neigh_resolve_output(neigh, packet(net))
    assert (neigh.state, asked(net)) == (NUD_INCOMPLETE, [])
    net.run(5)
    assert asked(net) == [b"\xff" * 6]


def test_nobody_is_asked_more_than_three_times(net, arp):
    net.wire.cut()
    neigh = arp.neigh_lookup_create(IP_B)
    arp.neigh_resolve_output(neigh, packet(net))
    for _ in range(50):
        net.run(100)
    assert (len(asked(net)), neigh.state) == (3, NUD_FAILED)


def test_a_probe_asks_the_neighbour_itself(net, arp):
    neigh = arp.neigh_lookup_create(IP_B)
    arp.neigh_update(neigh, MAC_B, NUD_STALE)
    arp.neigh_resolve_output(neigh, packet(net))
    assert neigh.state == NUD_DELAY
    net.wire.cut()
    net.run(7_500)
    assert neigh.state == NUD_PROBE
    assert asked(net) == [MAC_B] * 3
    net.run(1_500)
    assert neigh.state == NUD_FAILED


def test_reachable_time_is_drawn_between_half_and_one_and_a_half(net, arp):
    drawn = {arp._rand_reach_time() for _ in range(200)}
    assert min(drawn) >= 15 * HZ and max(drawn) < 45 * HZ
    assert len(drawn) > 100
    now = arp.reachable_time
    assert arp.reachable_time == now
    net.run(301_000)
    assert arp._last_rand == 0
    again = arp.reachable_time
    assert arp._last_rand > 0 and again == arp.reachable_time


def test_two_machines_draw_differently(net):
    assert net.a.inet.arp.reachable_time != net.b.inet.arp.reachable_time


@pytest.mark.parametrize(
    ("old", "ha", "state", "override", "then"),
    [
        (NUD_REACHABLE, MAC_B, NUD_STALE, True, (NUD_REACHABLE, MAC_B)),
        (NUD_REACHABLE, MAC_C, NUD_STALE, True, (NUD_STALE, MAC_C)),
        (NUD_REACHABLE, MAC_C, NUD_STALE, False, (NUD_REACHABLE, MAC_B)),
        (NUD_REACHABLE, MAC_C, NUD_REACHABLE, False, (NUD_REACHABLE, MAC_B)),
        (NUD_STALE, MAC_B, NUD_REACHABLE, False, (NUD_REACHABLE, MAC_B)),
        (NUD_STALE, MAC_B, NUD_STALE, True, (NUD_STALE, MAC_B)),
    ],
)
def test_what_is_learnt(arp, old, ha, state, override, then):
    neigh = arp.neigh_lookup_create(IP_B)
    arp.neigh_update(neigh, MAC_B, old)
    arp.neigh_update(neigh, ha, state, override=override)
    assert (neigh.state, neigh.ha) == then
    assert neigh.timer.pending == (then[0] == NUD_REACHABLE)


def test_an_announcement_changes_only_whom_one_knows(net, arp):
    net.flood(frame(1, MAC_C, IP_C, IP_C, b"\xff" * 6))
    net.run(1)
    assert IP_C not in arp.table
    neigh = arp.neigh_lookup_create(IP_C)
    arp.neigh_update(neigh, MAC_B, NUD_STALE)
    net.run(1_100)
    net.flood(frame(1, MAC_C, IP_C, IP_C, b"\xff" * 6))
    net.run(1)
    assert (neigh.ha, neigh.state) == (MAC_C, NUD_STALE)


def test_a_broadcast_answer_proves_nothing(net, arp):
    arp.neigh_lookup_create(IP_C)
    net.flood(frame(2, MAC_C, IP_C, IP_A, b"\xff" * 6))
    net.run(1)
    assert arp.table[IP_C].state == NUD_STALE


def test_a_question_makes_a_route_to_who_asks(net):
    net.flood(frame(1, MAC_C, IP_C, IP_A))
    net.run(1)
    assert IP_C << 33 | IP_A << 1 in net.a.inet.route.entries


def test_without_memory_for_that_route_there_is_no_answer(net):
    net.a.inet.route._dst_alloc = lambda *_args: None
    net.flood(frame(1, MAC_C, IP_C, IP_A))
    net.run(1)
    assert net.a.stats.tx_frames == 0
    assert net.a.inet.arp.table == {}


def test_who_claims_our_address_is_not_answered(net):
    net.flood(frame(1, MAC_C, IP_A, IP_A))
    net.run(1)
    assert net.a.stats.tx_frames == 0


@pytest.mark.parametrize("tip", [0x7F000001, 0xE0000001])
def test_some_addresses_are_never_asked_for(net, tip):
    net.flood(frame(1, MAC_C, IP_C, tip))
    net.run(1)
    assert net.a.stats.ignored == {"arp: malformed": 1}


# collecting


def test_what_nobody_holds_or_uses_goes_after_a_minute_and_the_machine_sleeps(net, arp):
    arp.neigh_update(arp.neigh_lookup_create(IP_B), MAC_B, NUD_STALE)
    net.run(55_000)
    assert IP_B in arp.table
    net.run(30_000)
    assert arp.table == {}
    assert not arp._gc_timer.pending
    assert net.a.in_use("arp_cache") == 0


def test_what_failed_goes_sooner(net, arp):
    net.wire.cut()
    arp.neigh_resolve_output(arp.neigh_lookup_create(IP_B), packet(net))
    net.run(20_000)
    assert arp.table == {}


def test_what_a_route_holds_stays_and_no_timer_asks(net, arp):
    arp.neigh_update(arp.neigh_lookup_create(IP_B), MAC_B, NUD_STALE)
    dst = net.a.inet.ip_route_output(IP_B)
    dst.refcnt += 1
    net.run(100_000)
    assert IP_B in arp.table
    assert not arp._gc_timer.pending
    dst.refcnt -= 1


def test_above_gc_thresh2_the_unheld_go_every_five_seconds(net, arp):
    arp.gc_thresh2 = 4
    for number in range(6):
        arp.neigh_lookup_create(IP_C + number)
    assert len(arp.table) == 6
    net.run(5_100)
    arp.neigh_lookup_create(IP_C + 100)
    assert list(arp.table) == [IP_C + 100]


def test_a_dead_neighbour_lives_as_long_as_it_is_held(net, arp):
    neigh = arp.neigh_lookup_create(IP_B)
    neigh.refcnt += 1
    arp.flush()
    assert (neigh.dead, neigh.state, net.a.in_use("arp_cache")) == (True, NUD_NONE, 1)
    arp.neigh_update(neigh, MAC_B, NUD_REACHABLE)
    assert neigh.state == NUD_NONE
    arp.neigh_release(neigh)
    assert net.a.in_use("arp_cache") == 0
    assert arp.check() == []


def test_a_table_must_say_how_to_ask(net):
    table = NeighTable(net.a.kernel, net.a.dev, net.a.slub, net.a.nic, "other_cache", 0x0800)
    with pytest.raises(NotImplementedError):
        table.solicit(None)
