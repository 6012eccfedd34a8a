"""Routes and neighbours of IPv6."""

from __future__ import annotations

import pytest

from ip6_ground import G_A, G_B, LL_B, advertisement, answers, ip6_frame, ping6, solicitation
from kemu.kernel.errno import EHOSTUNREACH, ENETUNREACH, ENOBUFS
from kemu_net.core.neighbour import NUD_INCOMPLETE, NUD_NOARP, NUD_REACHABLE, NUD_STALE
from kemu_net.ipv6.addr import in6_ntop, is_link_local, link_local, solicited_node
from net_ground import MAC_A, MAC_B, MAC_C, two_hosts

ICMP6 = 58


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


@pytest.fixture
def route(net):
    return net.a.inet6.route


def test_addresses():
    assert in6_ntop(link_local(MAC_A)) == "fe80:0:0:0:0:ff:fe00:1"
    assert in6_ntop(solicited_node(G_A)) == "ff02:0:0:0:0:1:ff00:1"
    assert is_link_local(link_local(MAC_A)) and not is_link_local(G_A)


def test_input_makes_one_entry_for_an_own_address(net, route):
    first = route.ip6_route_input(G_A)
    assert route.ip6_route_input(G_A) is first
    assert first.local
    assert net.a.in_use("ip6_dst_cache") == 1


def test_a_packet_for_another_host_makes_none(net, route):
    assert route.ip6_route_input(G_B) == -EHOSTUNREACH
    assert net.a.in_use("ip6_dst_cache") == 0


def test_an_answer_makes_a_route_and_a_neighbour(net):
    net.flood(ip6_frame(ICMP6, ping6()))
    net.run(10)
    assert {G_A << 1, G_B << 1 | 1} <= set(net.a.inet6.route.entries)
    assert net.a.in_use("ip6_dst_cache") == len(net.a.inet6.route.entries)
    assert net.a.in_use("ndisc_cache") == len(net.a.inet6.ndisc.table)
    assert len(answers(net)) == 1
    assert net.a.inet6.ndisc.table[G_B].state == NUD_REACHABLE


def test_what_is_not_on_the_link_is_unreachable(route):
    assert route.ip6_route_output(0x2600 << 112 | 1) == -ENETUNREACH


def test_without_memory_there_is_no_route(net, route):
    route.slub = net.a.inet6.ndisc.slub = type("NoSlub", (), {"kmem_cache_alloc": lambda *_: None})()
    assert route.ip6_route_input(G_A) == -ENOBUFS
    assert route.ip6_route_output(G_B) == -ENOBUFS


def test_what_nobody_uses_for_a_minute_goes_and_the_machine_sleeps(net, route):
    route.ip6_route_input(G_A)
    net.run(55_000)
    assert route.entries
    net.run(40_000)
    assert route.entries == {}
    assert not route._timer.pending


def test_what_is_held_stays(net, route):
    dst = route.ip6_route_input(G_A)
    dst.refcnt += 1
    net.run(200_000)
    assert not dst.obsolete
    dst.refcnt -= 1


def test_the_cache_is_bounded(net, route):
    net.a.inet6.ndisc.gc_thresh3 = 1 << 20
    route.gc_thresh, route.max_size = 8, 16
    for dst in [route.ip6_route_output(G_B + 1 + number) for number in range(17)]:
        dst.refcnt += 1
    assert route.ip6_route_output(G_B + 1000) == -ENOBUFS
    for dst in route.entries.values():
        dst.refcnt -= 1
    net.run(100_000)
    assert not isinstance(route.ip6_route_output(G_B + 1000), int)


def test_max_size_is_a_tunable_with_a_reserve(net, route):
    assert route.max_size == 4096
    assert net.a.kernel.sysctl.write("net.ipv6.route.max_size", "5000") == 0
    assert route.max_size == 5000
    assert net.a.kernel.sysctl.write("net.ipv6.route.gc_thresh", "50") == 0
    assert route.gc_thresh == 50


def test_a_group_needs_no_question(route):
    group = solicited_node(G_B)
    neigh = route.ip6_route_output(group).neigh
    assert (neigh.state, neigh.ha) == (NUD_NOARP, b"\x33\x33\xff\0\0\2")


def test_an_unknown_neighbour_is_asked_for_in_its_group(net):
    net.a.inet6.icmpv6.send(G_A, G_B + 5, b"\x80\0\0\0\0\0\0\0")
    net.run(10)
    (frame,) = [frame for _, frame in net.frames if frame[54] == 135]
    assert frame[:6] == b"\x33\x33\xff\0\0\7"
    assert net.a.inet6.ndisc.table[G_B + 5].state == NUD_INCOMPLETE
    net.run(10_000)


def test_two_hosts_find_each_other(net):
    net.a.inet6.icmpv6.send(G_A, G_B, b"\x80\0\0\0\0\1\0\1")
    net.run(20)
    assert net.a.inet6.ndisc.table[G_B].ha == MAC_B
    assert net.b.inet6.ndisc.table[G_A].ha == MAC_A


def test_an_advertisement_alone_makes_no_entry(net):
    net.flood(advertisement())
    net.run(1)
    assert net.a.inet6.ndisc.table == {}


def test_an_advertisement_without_override_changes_no_address(net):
    net.flood(solicitation())
    net.run(10)
    net.flood(advertisement(flags=0x00, ha=MAC_C))
    net.run(1)
    assert net.a.inet6.ndisc.table[G_B].ha == MAC_B
    net.flood(advertisement(flags=0x20, ha=MAC_C))
    net.run(1)
    assert (net.a.inet6.ndisc.table[G_B].ha, net.a.inet6.ndisc.table[G_B].state) == (MAC_C, NUD_STALE)


@pytest.mark.parametrize(
    "frame", [solicitation(hops=64), solicitation(saddr=0), solicitation(ha=b"\2"), solicitation(target=0xFF02 << 112 | 1)]
)
def test_a_solicitation_that_cannot_be_right_is_refused(net, frame):
    net.flood(frame)
    net.run(1)
    assert answers(net, 136) == []


def test_who_looks_for_a_duplicate_is_told_in_front_of_all(net):
    net.flood(solicitation(saddr=0, ha=None))
    net.run(1)
    (frame,) = [frame for _, frame in net.frames if frame[54] == 136]
    assert (frame[:6], frame[58]) == (b"\x33\x33\0\0\0\1", 0x20)


def test_another_address_is_nobodys_business(net):
    net.flood(solicitation(target=G_A + 0x1000000, daddr=G_A))
    net.run(1)
    assert answers(net, 136) == []


def test_closing_frees_everything(net):
    net.flood(ip6_frame(ICMP6, ping6(saddr=LL_B), saddr=LL_B))
    net.run(10)
    net.a.inet6.close()
    assert net.a.in_use("ip6_dst_cache") == net.a.in_use("ndisc_cache") == 0


def test_a_route_whose_neighbour_was_dropped_finds_its_successor(net):
    net.flood(ip6_frame(ICMP6, ping6()))
    net.run(10)
    net.a.inet6.ndisc.flush()
    net.flood(ip6_frame(ICMP6, ping6()))
    net.run(20)
    assert len(answers(net)) == 2
