"""What IPv6 asks of the reserve."""

from __future__ import annotations

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.ipv6.reserves import IP6_RT_MAX_SIZE, IP6FRAG_HIGH_THRESH
from net_ground import one_host


def test_routes_of_ipv6_are_twelve_to_a_page():
    with one_host() as host:
        cache = host.inet6.route.cache
        assert (cache.size, cache.objects) == (320, 12)
        assert host.slub.kmem_estimate_pages(cache, GFP_ATOMIC, IP6_RT_MAX_SIZE) == 343


def test_fragments_of_ipv6_may_hold_as_much_as_those_of_ipv4():
    assert IP6FRAG_HIGH_THRESH == 262144
