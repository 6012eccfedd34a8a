"""The route cache."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EHOSTUNREACH, ENETUNREACH, ENOBUFS
from kemu_net.ipv4.route_table import FLUSH_INTERVAL, rt_hash_entries
from net_ground import IP_A, IP_B, MIB, one_host, two_hosts


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.mark.parametrize(
    ("mem", "entries"), [(16, 512), (32, 512), (64, 512), (128, 1024), (256, 2048), (512, 16384), (1024, 32768)]
)
def test_the_table_grows_with_memory(mem, entries):
    assert rt_hash_entries(mem * MIB >> 12) == entries


def test_memory_is_rounded_up_to_a_mib():
    assert rt_hash_entries((128 * MIB >> 12) - 100) == 1024


def test_max_size_is_sixteen_times_the_buckets(host):
    assert (host.inet.route.gc_thresh, host.inet.route.max_size) == (512, 8192)


def test_an_entry_is_an_object_of_320_bytes_twelve_to_a_page(host):
    cache = host.inet.route.ip_dst_cache
    assert (cache.size, cache.objects, cache.order) == (320, 12, 0)


def test_a_second_lookup_finds_the_first_entry(host):
    first = host.inet.ip_route_output(IP_B)
    assert host.inet.ip_route_output(IP_B) is first
    assert host.in_use("ip_dst_cache") == 1


def test_input_and_output_have_entries_of_their_own(host):
    out = host.inet.ip_route_output(IP_B)
    back = host.inet.route.ip_route_input(IP_A, IP_B)
    assert out is not back
    assert back.local and not out.local


def test_an_address_off_the_link_needs_a_gateway(host):
    assert host.inet.ip_route_output(0x08080808) == -ENETUNREACH
    host.inet.route.gateway = IP_B
    assert host.inet.ip_route_output(0x08080808).neigh.ip == IP_B


def test_a_packet_for_another_host_has_no_route(host):
    assert host.inet.route.ip_route_input(IP_B, 0x0A000009) == -EHOSTUNREACH
    assert host.in_use("ip_dst_cache") == 0


def test_without_memory_there_is_no_route(host):
    host.hog()
    assert host.inet.ip_route_output(IP_B) == -ENOBUFS
    assert host.inet.route.ip_route_input(IP_A, IP_B) == -ENOBUFS
    assert host.inet.route.alloc_failed == 2


def test_a_route_whose_neighbour_finds_no_memory_is_given_back(host):
    host.inet.arp.slub = type("NoSlub", (), {"kmem_cache_alloc": lambda *_: None})()
    assert host.inet.ip_route_output(IP_B) == -ENOBUFS
    assert host.in_use("ip_dst_cache") == 0


def test_the_cache_is_emptied_every_ten_minutes():
    with two_hosts() as net:
        old = net.a.inet.ip_route_output(IP_B)
        old.refcnt += 1  # a socket keeps it
        net.run(FLUSH_INTERVAL * 4 - 100)
        assert not old.obsolete
        net.run(200)
        assert old.obsolete
        assert net.a.inet.ip_route_output(IP_B) is not old


def test_the_cache_is_bounded(host):
    route = host.inet.route
    route.gc_thresh, route.max_size = 64, 256
    for source in range(2000):
        route.ip_route_input(IP_A, 0x0B000000 + source)
    assert len(route.entries) <= 257
    route.check()


def test_a_cache_that_cannot_shrink_refuses(host):
    route = host.inet.route
    route.gc_thresh, route.max_size = 4, 8
    results = [route.ip_route_input(IP_A, 0x0B000000 + source) for source in range(12)]
    assert results[-1] == -ENOBUFS
    assert not isinstance(results[0], int)


def test_local_addresses(host):
    route = host.inet.route
    assert [route.is_local(addr) for addr in (IP_A, 0xFFFFFFFF, 0x0A0000FF, 0x7F000001, IP_B)] == [True] * 4 + [False]


def test_a_broadcast_of_the_link_goes_to_everybody(host):
    assert host.inet.ip_route_output(IP_A | 0xFF).neigh.ip == 0xFFFFFFFF


def test_input_empties_an_old_cache_too():
    with two_hosts() as net:
        old = net.a.inet.route.ip_route_input(IP_A, IP_B)
        net.run(FLUSH_INTERVAL * 4 + 100)
        assert old.obsolete
        assert net.a.inet.route.entries == {}
        assert net.a.inet.route.ip_route_input(IP_A, IP_B) is not old


def test_a_full_cache_drops_what_was_long_unused():
    with two_hosts() as net:
        route = net.a.inet.route
        route.gc_thresh, route.max_size = 4, 8
        for source in range(8):
            route.ip_route_input(IP_A, 0x0B000000 + source)
        net.run(310_000)
        kept = route.ip_route_input(IP_A, 0x0B000003)
        assert not isinstance(route.ip_route_input(IP_A, 0x0B000100), int)
        assert kept in route.entries.values()
        assert len(route.entries) == net.a.in_use("ip_dst_cache") < 9


def test_check_finds_a_dead_or_a_superfluous_entry(host):
    route = host.inet.route
    dst = host.inet.ip_route_output(IP_B)
    route.check()
    dst.obsolete = True
    with pytest.raises(KernelBug, match="obsolete"):
        route.check()
    dst.obsolete = False
    route.max_size = -1
    with pytest.raises(KernelBug, match="1 entries"):
        route.check()


def test_a_route_says_where_it_leads(host):
    assert repr(host.inet.ip_route_output(IP_A)).startswith("<local route 0x0a000001 -> 0x0a000001 via None")
    assert "0x0a000001 -> 0x0a000002 via <neighbour" in repr(host.inet.ip_route_output(IP_B))
