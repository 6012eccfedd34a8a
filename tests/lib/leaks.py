"""Test helper: nothing is left. Each function asserts, and names what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.mempool import Mempool
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import MemReserve
from kemu.mm.slub import Slub

if TYPE_CHECKING:
    from kemu.machine import Machine


def assert_no_pages(pa: PageAllocator, expected: int = 0) -> None:
    """Assert that so many pages are allocated and all others are back, and that none counts as taken from the reserve."""
    for cpu in range(len(pa.kernel.cpus)):
        pa.drain_pages(cpu)
    pa.check()
    assert pa.allocated_pages() == expected, f"{pa.allocated_pages()} pages are allocated, not {expected}"
    assert pa.nr_free_pages() == sum(zone.present_pages for zone in pa.zones) - expected
    if not expected:
        assert not pa.reserve_pfns, f"{len(pa.reserve_pfns)} pages still count as taken from the reserve"


def assert_no_objects(slub: Slub) -> None:
    """Assert that no cache has an object in use; gives all empty slabs back."""
    left = {cache.name: slub.objects_in_use(cache) for cache in slub.caches.values() if slub.objects_in_use(cache)}
    assert not left, f"objects are left: {left}"
    slub.shrink_all()
    slub.check()
    assert slub.vmstat.nr_slab == 0 and slub.vmstat.nr_slab_reclaimable == 0, "nr_slab is not 0 without a slab"


def assert_nothing_charged(*reserves: MemReserve) -> None:
    """Assert that nothing is charged to these reserves or any below them."""
    for reserve in reserves:
        assert reserve.usage == 0, f"{reserve.usage} of {reserve.name!r} is still charged"
        assert_nothing_charged(*reserve.children)


def assert_pools_full(*pools: Mempool) -> None:
    """Assert that all elements of these pools are back."""
    for pool in pools:
        pool.check()
        assert pool.curr_nr == pool.min_nr, f"{pool.min_nr - pool.curr_nr} elements of {pool.name} are out"


def assert_nothing_left(machine: Machine, pages: int = 0) -> None:
    """Assert that a machine at rest has no page (or the given ones), no object and no charge left; pools keep theirs."""
    machine.radix_nodes.drain()
    machine.check()
    assert_nothing_charged(machine.reserves.root)
    assert_no_objects(machine.slub)
    assert_no_pages(machine.page_alloc, pages)
