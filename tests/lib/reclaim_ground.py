"""Test ground: a machine of 4 MiB with a swap disk and a process, on which the test itself reclaims."""

from __future__ import annotations

from contextlib import contextmanager

from kemu.mm.page import PG_referenced
from kemu.mm.pte import PTE_young
from swap_ground import MIB, page_bytes, swap_ground


@contextmanager
def reclaim_ground():
    """Boot without kswapd; give the ground with ``zone``, ``area`` and ``disk``."""
    with swap_ground(mem=4 * MIB, kswapd=False) as g:
        g.area, g.disk = g.disk_area(2000)
        g.swapfile.swapon(g.area)
        g.filemap.truncate_inode_pages(g.area.f_mapping)  # the header's page is on the LRU too
        g.process(900)
        g.zone = g.pa.zones[0]
        yield g


def fill(ground, pages, first=0, old=True):
    """Write pages; ``old``: on the inactive list, not used lately."""
    for vpn in range(first, first + pages):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        page = ground.task.mm.ptes[vpn]
        if old:
            ground.lru.del_page_from_lru(page)
            page.flags &= ~(PTE_young | PG_referenced)
            ground.lru.lru_cache_add(page)
