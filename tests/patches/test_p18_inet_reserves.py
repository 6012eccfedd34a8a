"""Patch 18: the leaves of the reserve that IPv4 and IPv6 make, and their tunables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EINVAL, ENOENT, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from net_ground import MIB, one_host, two_hosts, udp_frame

TUNABLES = [
    "net.ipv4.route.max_size",
    "net.ipv4.ipfrag_high_thresh",
    "net.ipv6.route.max_size",
    "net.ipv6.ip6frag_high_thresh",
]


@pytest.fixture
def host():
    with one_host() as host:
        yield host


def leaf(host, name):
    return host.inet_reserves.leaves[name]


@pytest.mark.parametrize(("ipv6", "pages"), [(True, 1356), (False, 873)])
def test_the_reserve_of_32_mib(ipv6, pages):
    with one_host(ipv6=ipv6) as host:
        host.swap_over_network()  # 32 pages to transmit and 17 for RPC slots
        assert host.reserves.root.pages == pages
        assert host.page_alloc.var_free_kbytes == 4 * pages


def test_the_budget_is_the_sum_of_the_fragment_limits(host):
    assert host.net_reserves.net_skb_reserve.limit == 262144 + 262144


def test_pages_are_the_sum_of_two_estimates(host):
    assert host.net_reserves.net_skb_reserve.pages == 2 * host.slub.kestimate(GFP_ATOMIC, 262144) == 280


def test_the_leaves_hang_where_they_belong(host):
    parents = [leaf(host, name).parent.name for name in TUNABLES]
    assert parents == ["network RX reserve", "SKB data reserve"] * 2


def test_before_the_first_swap_socket_nothing_is_reserved(host):
    assert host.page_alloc.var_free_kbytes == 0


def test_routes_scale_with_max_size(host):
    assert host.kernel.sysctl.write(TUNABLES[0], "1200") == 0
    assert leaf(host, TUNABLES[0]).pages == 101
    assert host.inet.route.max_size == 1200


def test_a_raised_tunable_raises_the_floor(host):
    host.swap_over_network()
    assert host.kernel.sysctl.write(TUNABLES[0], "12288") == 0
    assert host.reserves.root.pages == 1356 - 684 + 1025
    assert host.page_alloc.var_free_kbytes == 4 * host.reserves.root.pages


@pytest.mark.parametrize("name", TUNABLES)
def test_tunables_read_back(host, name):
    assert host.kernel.sysctl.write(name, "4000") == 0
    assert host.kernel.sysctl.read(name) == "4000\n"


@pytest.mark.parametrize("name", TUNABLES)
def test_lowering_always_succeeds(host, name):
    host.swap_over_network()
    before = host.reserves.root.pages
    assert host.kernel.sysctl.write(name, "1") == 0
    assert host.reserves.root.pages < before


def refuse(host):
    """Let the reserve not grow."""
    host.page_alloc.adjust_memalloc_reserve = lambda _pages: -ENOMEM


@pytest.mark.parametrize("name", TUNABLES)
def test_a_refused_write_changes_nothing(host, name):
    host.swap_over_network()
    refuse(host)
    before = host.kernel.sysctl.read(name), leaf(host, name).pages, leaf(host, name).limit, host.reserves.root.pages
    assert host.kernel.sysctl.write(name, "99999999") == -ENOMEM
    assert before == (host.kernel.sysctl.read(name), leaf(host, name).pages, leaf(host, name).limit, host.reserves.root.pages)


def test_without_patch_17_the_errno_is_einval():
    with one_host(patches="all,-17") as host:
        host.swap_over_network()
        refuse(host)
        assert host.kernel.sysctl.write(TUNABLES[0], "99999999") == -EINVAL


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TUNABLES), st.integers(0, 600_000)), max_size=8))
def test_the_tree_follows_every_write(writes):
    with one_host() as host:
        host.swap_over_network()
        for name, value in writes:
            before = leaf(host, name).pages, host.kernel.sysctl.read(name)
            if host.kernel.sysctl.write(name, str(value)):
                assert before == (leaf(host, name).pages, host.kernel.sysctl.read(name))
            else:
                assert leaf(host, name).limit == value
            host.reserves.check()
            values = host.inet_reserves.values
            assert host.net_reserves.net_skb_reserve.limit == values[TUNABLES[1]] + values[TUNABLES[3]]


def test_sysctl_2_keeps_variable_and_reserve_together(host):
    assert host.inet_reserves.sysctl_binary(TUNABLES[1], 4096) == 0
    assert leaf(host, TUNABLES[1]).limit == 4096


def test_b18a_sysctl_2_forgets_the_reserve():
    with one_host(fixes="none") as host:
        assert host.inet_reserves.sysctl_binary(TUNABLES[1], 4096) == 0
        assert host.inet_reserves.values[TUNABLES[1]] == 4096
        assert leaf(host, TUNABLES[1]).limit == 262144


def test_sysctl_2_of_an_unknown_name(host):
    assert host.inet_reserves.sysctl_binary("net.ipv4.nothing", 1) == -ENOENT


@pytest.mark.parametrize("name", TUNABLES)
def test_a_negative_value_is_refused(host, name):
    before = host.kernel.sysctl.read(name), leaf(host, name).limit
    assert host.kernel.sysctl.write(name, "-5") == -EINVAL
    assert before == (host.kernel.sysctl.read(name), leaf(host, name).limit)


def test_b18b_a_negative_value_leaves_no_budget():
    with one_host(fixes="none") as host:
        host.swap_over_network()
        assert host.kernel.sysctl.write(TUNABLES[1], "-5") == 0
        assert (leaf(host, TUNABLES[1]).pages, leaf(host, TUNABLES[1]).limit) == (12, -5)


def test_b18b_a_large_negative_value_takes_from_the_pool_what_others_count_on():
    with one_host(fixes="none") as host:
        host.swap_over_network()
        before = host.page_alloc.var_free_kbytes // 4
        assert host.kernel.sysctl.write(TUNABLES[1], "-262144") == 0
        assert leaf(host, TUNABLES[1]).pages == (1 << 32) - 116
        assert host.page_alloc.var_free_kbytes // 4 == before - 140 - 116


def test_without_the_patch_there_is_no_budget():
    with one_host(patches="all,-18") as host:
        host.swap_over_network()
        assert host.net_reserves.net_skb_reserve.limit == 0
        assert not host.net_reserves.rx_emergency_get(1)
        host.hog()
        assert host.skbs.netdev_alloc_skb(None, 1536) is None


def test_without_the_patch_tunables_are_plain_variables():
    with one_host(patches="all,-18") as host:
        assert host.kernel.sysctl.write(TUNABLES[0], "77") == 0
        assert host.inet.route.max_size == 77
        assert host.inet_reserves.sysctl_binary(TUNABLES[1], 5) == 0
        assert host.kernel.sysctl.read(TUNABLES[1]) == "5\n"


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
@pytest.mark.parametrize(("ipv6", "buffers"), [(True, 255), (False, 127)])
def test_the_budget_in_receive_buffers(ipv6, buffers):
    """With both families eviction (144 fragments) comes first, with one the budget does."""
    with one_host(ipv6=ipv6) as host:
        host.swap_over_network()
        host.hog()
        held = []
        while (skb := host.skbs.netdev_alloc_skb(None, 1536)) is not None:
            held.append(skb)
        assert len(held) == buffers


def test_the_budget_bounds_a_flood_at_the_floor():
    with two_hosts(patches="all,-20", b={}, mem=32 * MIB, ring=64) as net:
        net.greet()
        net.a.swap_over_network()
        for port in range(10, 16):
            net.a.socket(port)
        net.a.hog()
        for port in range(10, 16):
            net.flood(udp_frame(dport=port), 68)
            net.run(20)
        assert net.a.usage < net.a.net_reserves.net_skb_reserve.limit
        assert net.a.stats.drops["charge"] > 0
