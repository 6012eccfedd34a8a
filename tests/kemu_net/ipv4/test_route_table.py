"""The collectors of the route cache: references, garbage, expiry, rebuild."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import EINVAL, ENOBUFS, ENOMEM
from kemu.kernel.timer import HZ
from kemu_net.core.dst import sk_dst_set
from net_ground import IP_A, IP_B, IP_C, one_host, two_hosts, udp_frame

STRANGER = 0x0B000000


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


@pytest.fixture
def route(net):
    return net.a.inet.route


class Holder:
    """A socket, as far as routes look at it."""

    sk_dst = None


def strangers(route, count: int, start=0):
    return [route.ip_route_input(IP_A, STRANGER + start + number) for number in range(count)]


# references


def test_a_socket_holds_what_it_keeps(route):
    sk = Holder()
    first, second = route.ip_route_output(IP_B), route.ip_route_output(IP_C)
    sk_dst_set(sk, first)
    assert (sk.sk_dst, first.refcnt) == (first, 1)
    sk_dst_set(sk, second)
    assert (first.refcnt, second.refcnt) == (0, 1)
    sk_dst_set(sk, second)
    assert second.refcnt == 1
    sk_dst_set(sk, None)
    assert (sk.sk_dst, second.refcnt) == (None, 0)


def test_what_is_held_outlives_the_flush_and_goes_soon_after_its_release(net, route):
    sk = Holder()
    dst = route.ip_route_output(IP_B)
    sk_dst_set(sk, dst)
    route.rt_cache_flush()
    assert (dst.obsolete, route.waiting, net.a.in_use("ip_dst_cache")) == (True, [dst], 1)
    net.run(5_000)
    assert route.waiting == [dst]
    sk_dst_set(sk, None)
    net.run(6_000)
    assert (route.waiting, net.a.in_use("ip_dst_cache")) == ([], 0)
    route.check()


def test_the_longer_it_is_held_the_less_often_it_is_looked_for(net, route):
    sk = Holder()
    sk_dst_set(sk, route.ip_route_output(IP_B))
    route.rt_cache_flush()
    net.run(2_000_000)
    assert route._gc_timer.expires - net.a.kernel.sched.jiffies <= 120 * HZ
    sk_dst_set(sk, None)
    net.run(121_000)
    assert route.waiting == []
    assert not route._gc_timer.pending


def test_a_route_holds_its_neighbour(route):
    dst = route.ip_route_output(IP_B)
    neigh = dst.neigh
    assert neigh.refcnt == 2
    route.rt_cache_flush()
    assert (neigh.refcnt, dst.neigh) == (1, None)


def test_a_connection_keeps_its_route_and_gives_it_back(net):
    sk = net.a.udp.sock_create()
    sk.saddr, sk.daddr, sk.sk_protocol = IP_A, IP_B, 253
    skb = net.a.skbs.alloc_skb(10, 0x20)
    skb.buf, skb.len = b"x", 1
    net.a.inet.ip_queue_xmit(skb, sk)
    dst = sk.sk_dst
    assert dst.refcnt == 1
    net.a.udp.close(sk)
    assert dst.refcnt == 0
    net.run(10)


def test_closing_frees_even_what_is_held(net, route):
    sk = Holder()
    sk_dst_set(sk, route.ip_route_output(IP_B))
    net.a.inet.close()
    assert net.a.in_use("ip_dst_cache") == net.a.in_use("arp_cache") == 0
    assert sk.sk_dst.obsolete


# garbage


def test_a_chain_keeps_nine_and_drops_the_oldest_input_first(route):
    route._secret = 0
    route.buckets = 1
    out = route.ip_route_output(IP_B)
    inputs = strangers(route, 20)
    assert len(route.entries) == route.gc_elasticity + 1
    assert out in route.entries.values()
    assert inputs[-1] in route.entries.values() and inputs[0].obsolete
    route.check()


def test_what_is_held_stays_in_a_full_chain(route):
    route.buckets = 1
    held = strangers(route, 1)[0]
    held.refcnt += 1
    strangers(route, 30, 1)
    assert not held.obsolete
    held.refcnt -= 1


def test_below_gc_thresh_nobody_looks_for_garbage(route):
    strangers(route, 500)
    assert route.gc_total == 0


def test_above_it_each_allocation_does_but_not_twice_in_half_a_second(net, route):
    route.gc_thresh = 10
    strangers(route, 30)
    assert (route.gc_total, route.gc_ignored) == (19, 18)
    net.run(600)
    strangers(route, 1, 30)
    assert route.gc_ignored == 18


def test_a_goal_that_is_missed_makes_it_stricter(net, route):
    route.gc_thresh = 10
    strangers(route, 30)
    before = route._expire
    for number in range(12):
        net.run(600)
        strangers(route, 1, 100 + number)
    assert route._expire < before
    assert route.gc_goal_miss > 0
    assert len(route.entries) < 42


def test_a_full_cache_whose_entries_are_held_refuses(net, route):
    route.gc_thresh, route.max_size = 4, 8
    for dst in strangers(route, 8):
        dst.refcnt += 1
    assert strangers(route, 1, 100) == [-ENOBUFS]
    assert route.gc_dst_overflow == 1
    for dst in route.entries.values():
        dst.refcnt -= 1
    net.run(1_000)
    assert not isinstance(strangers(route, 1, 100)[0], int)


def test_obsolete_entries_that_sockets_hold_count_too(route):
    route.gc_thresh, route.max_size = 4, 8
    for dst in strangers(route, 8):
        dst.refcnt += 1
    route.rt_cache_flush()
    assert route.entries == {}
    assert strangers(route, 1, 100) == [-ENOBUFS]
    for dst in route.waiting:
        dst.refcnt -= 1


def test_a_full_neighbour_table_makes_routes_go(net, route):
    net.a.inet.arp.gc_thresh3 = 4
    for number in range(4):
        route.ip_route_output(IP_B + number)
    net.run(600)
    route.gc_elasticity, route.gc_thresh, route._expire = 0, 0, 0
    assert not isinstance(route.ip_route_output(IP_B + 100), int)
    assert net.a.inet.arp.table[IP_B + 100].refcnt == 2


# expiry and rebuild


def test_what_is_unused_for_five_minutes_goes_and_the_machine_sleeps(net, route):
    strangers(route, 40)
    net.run(290_000)
    assert len(route.entries) == 40
    net.run(700_000)
    assert route.entries == {}
    assert not route._expire_timer.pending and not route._secret_timer.pending


def test_each_time_a_fifth_of_the_chains_is_looked_at(net, route):
    route.secret_interval = 1 << 40
    strangers(route, 200)
    net.run(300_500)
    left = [len(route.entries)]
    for _ in range(6):
        net.run(60_000)
        left.append(len(route.entries))
    assert 150 < left[0] < 200  # the second of a chain gets half of the time
    assert left == sorted(left, reverse=True)
    assert left[1] > 90 and left[6] == 0


def test_the_rebuild_draws_another_secret(net, route):
    secret = route._secret
    strangers(route, 3)
    net.run(601_000)
    assert route._secret != secret
    assert route.entries == {}


def test_a_rebuild_finds_the_same_routes_under_another_chain(route):
    dst = route.ip_route_output(IP_B)
    dst.refcnt += 1
    route.rt_cache_flush()
    again = route.ip_route_output(IP_B)
    assert again is not dst and again.daddr == dst.daddr
    dst.refcnt -= 1


def test_what_a_packet_uses_is_not_old(net, route):
    for _ in range(6):
        net.flood(udp_frame())
        net.run(60_000)
    assert IP_B << 33 | IP_A << 1 in route.entries


# tunables


@pytest.mark.parametrize(
    ("name", "value", "attribute", "stored"),
    [
        ("gc_thresh", 100, "gc_thresh", 100),
        ("gc_elasticity", 3, "gc_elasticity", 3),
        ("gc_timeout", 10, "gc_timeout", 10 * HZ),
        ("gc_interval", 5, "gc_interval", 5 * HZ),
        ("gc_min_interval", 2, "gc_min_interval", 2 * HZ),
        ("gc_min_interval_ms", 1000, "gc_min_interval", HZ),
        ("secret_interval", 30, "secret_interval", 30 * HZ),
    ],
)
def test_tunables(net, route, name, value, attribute, stored):
    assert net.a.kernel.sysctl.write(f"net.ipv4.route.{name}", str(value)) == 0
    assert getattr(route, attribute) == stored
    assert net.a.kernel.sysctl.read(f"net.ipv4.route.{name}") == f"{value}\n"


def test_flush_is_a_file(net, route):
    strangers(route, 3)
    assert net.a.kernel.sysctl.write("net.ipv4.route.flush", "0") == 0
    assert route.entries == {}


@pytest.mark.parametrize(("patches", "errno"), [("all", -ENOMEM), ("all,-17", -EINVAL)])
def test_a_max_size_that_the_reserve_cannot_pay_is_refused(patches, errno):
    """Patch 17's net half: what conv returns reaches write(2); the probe of the pool is made to fail."""
    with one_host(patches=patches) as host:
        host.swap_over_network()
        host.page_alloc.adjust_memalloc_reserve = lambda _pages: -ENOMEM
        assert host.kernel.sysctl.write("net.ipv4.route.max_size", "99999999") == errno
        assert host.inet.route.max_size == 8192
        assert host.kernel.sysctl.read("net.ipv4.route.max_size") == "8192\n"


# the account


def test_check_finds_what_is_not_counted(route):
    strangers(route, 2)
    route.live += 1
    with pytest.raises(KernelBug, match="3 live, 2 cached"):
        route.check()
    route.live -= 1
    chain = next(iter(route._chains.values()))
    dst = chain.pop()
    with pytest.raises(KernelBug, match="chains"):
        route.check()
    chain.append(dst)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["in", "out", "hold", "release", "flush", "wait", "gc"]), st.integers(0, 60)), max_size=60)
)
def test_no_order_of_events_loses_an_entry(events):
    with two_hosts() as net:
        route = net.a.inet.route
        route.gc_thresh, route.max_size, route.buckets = 8, 24, 4
        held = []
        for what, number in events:
            if what == "in":
                route.ip_route_input(IP_A, STRANGER + number)
            elif what == "out":
                route.ip_route_output(0x0A000000 + number + 10)
            elif what == "hold" and route.entries:
                dst = list(route.entries.values())[number % len(route.entries)]
                dst.refcnt += 1
                held.append(dst)
            elif what == "release" and held:
                held.pop(number % len(held)).refcnt -= 1
            elif what == "flush":
                route.rt_cache_flush()
            elif what == "wait":
                net.run(number * 3_000)
            elif what == "gc":
                route.rt_garbage_collect()
            route.check()
            assert net.a.in_use("ip_dst_cache") == route.live <= 25
        for dst in held:
            dst.refcnt -= 1
        net.run(1_300_000)
        assert net.a.in_use("ip_dst_cache") == net.a.in_use("arp_cache") == 0
