"""What IPv6 needs of the reserve, sizes only (2.6.23 net/ipv6/route.c, reassembly.c): patch 18 counts both families.

Interface: ``IP6_RT_MAX_SIZE``, ``IP6FRAG_HIGH_THRESH``, ``create_dst_cache(slub)``.

Left out: IPv6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.slub import SLAB_HWCACHE_ALIGN

if TYPE_CHECKING:
    from kemu.mm.slub import KmemCache, Slub

SIZEOF_RT6_INFO = 320
IP6_RT_MAX_SIZE = 4096
IP6FRAG_HIGH_THRESH = 262144


def create_dst_cache(slub: Slub) -> KmemCache:
    """Make the cache of IPv6 routes (``ip6_route_init()``)."""
    return slub.kmem_cache_create("ip6_dst_cache", SIZEOF_RT6_INFO, 0, SLAB_HWCACHE_ALIGN)
