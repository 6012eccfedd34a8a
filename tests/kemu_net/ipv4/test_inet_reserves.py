"""The tunables of the receive path's memory; what patch 18 makes of them is in tests/patches/test_p18_inet_reserves.py."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ENOENT
from kemu.kernel.sysctl import Sysctl
from kemu_net.ipv4.inet_reserves import IPFRAG_HIGH_THRESH, InetReserves
from net_ground import one_host

IPV4 = ["net.ipv4.route.max_size", "net.ipv4.ipfrag_high_thresh"]
IPV6 = ["net.ipv6.route.max_size", "net.ipv6.ip6frag_high_thresh"]


@pytest.mark.parametrize("patches", ["all", "all,-18"])
@pytest.mark.parametrize(("ipv6", "names"), [(True, IPV4 + IPV6), (False, IPV4)])
def test_a_family_brings_two_tunables(patches, ipv6, names):
    with one_host(patches=patches, ipv6=ipv6) as host:
        assert list(host.inet_reserves.values) == names
        assert [int(host.kernel.sysctl.read(name)) for name in names] == list(host.inet_reserves.values.values())


def test_only_the_patch_makes_leaves():
    for patches, leaves in (("all", IPV4 + IPV6), ("all,-18", [])):
        with one_host(patches=patches) as host:
            assert list(host.inet_reserves.leaves) == leaves


@pytest.mark.parametrize("patches", ["all", "all,-18"])
def test_the_route_cache_sees_its_limit_at_once(patches):
    with one_host(patches=patches) as host:
        assert host.kernel.sysctl.write("net.ipv4.route.max_size", "4096") == 0
        assert host.inet.route.max_size == host.inet_reserves.values["net.ipv4.route.max_size"] == 4096


@pytest.mark.parametrize("patches", ["all", "all,-18"])
@pytest.mark.parametrize("fixes", ["all", "none"])
def test_sysctl_2_changes_the_variable(patches, fixes):
    with one_host(patches=patches, fixes=fixes) as host:
        assert host.inet_reserves.sysctl_binary("net.ipv4.ipfrag_high_thresh", 100_000) == 0
        assert host.inet_reserves.values["net.ipv4.ipfrag_high_thresh"] == 100_000
        assert host.inet_reserves.sysctl_binary("net.ipv4.nothing", 1) == -ENOENT


def test_a_budget_by_hand_without_the_patch():
    with one_host(patches="all,-18", ipv6=False) as host:
        skb = host.net_reserves.net_skb_reserve
        assert skb.limit == 0
        host.kernel.sysctl = Sysctl(host.kernel)
        InetReserves(host.kernel, host.reserves, host.net_reserves, host.inet.route, None, constant_budget=IPFRAG_HIGH_THRESH)
        assert skb.limit == IPFRAG_HIGH_THRESH
