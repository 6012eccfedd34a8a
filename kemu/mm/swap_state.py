"""The swap cache: pages that have a slot, found by their entry (2.6.23 mm/swap_state.c).

Interface
    * ``add_to_swap(page, gfp)`` gives an anonymous page a slot; ``read_swap_cache_async(entry)``, ``swapin_readahead(entry)`` bring
      pages back; ``lookup_swap_cache(entry)``.
    * ``delete_from_swap_cache(page)``, ``remove_exclusive_swap_page(page)``, ``free_swap_and_cache(entry)``.

Rules of this file
    * A page of the cache has PG_swapcache, its entry in ``private``, and a reference of the cache. PG_private on it would mean that
      somebody has overwritten the entry: an oops (patch 29).
    * The tree's own gfp is GFP_ATOMIC|__GFP_NOWARN. add_to_swap() preloads with __GFP_NOMEMALLOC on top, so that topping up the
      stock leaves the reserve alone; the insert itself asks the slab first, as whoever runs.
    * One slot count is the cache's, each page table entry has one.
"""

from __future__ import annotations

from collections.abc import Callable

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EEXIST, ENOENT, ENOMEM
from kemu.lib.radix_tree import RadixNodes, RadixTree
from kemu.mm.address_space import AddressSpace, File
from kemu.mm.backing_dev import BDI_CAP_NO_ACCT_DIRTY, BDI_CAP_NO_WRITEBACK, BackingDev, Congestion
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import _GFP_NOMEMALLOC, _GFP_NOWARN, GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, gfp_t
from kemu.mm.page import Page, PG_dirty, PG_locked, PG_private, PG_swapcache, PG_uptodate, PG_writeback
from kemu.mm.swap_info import SwapAreas
from kemu.mm.swapops import SWP_OFFSET_MASK, swp_entry_t


class SwapState:
    """The swap cache of a machine.

    :ivar swapper_space: the address space of all swap cache pages; PageIo gives it its methods.
    :ivar swap_readpage: PageIo's.
    """

    def __init__(self, kernel: Kernel, filemap: Filemap, areas: SwapAreas, congestion: Congestion) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.filemap = filemap
        self.lru = filemap.lru
        self.page_alloc = filemap.page_alloc
        self.vmstat = filemap.vmstat
        self.areas = areas
        self.radix_nodes: RadixNodes = filemap.radix_nodes
        self.page_tree = RadixTree(GFP_ATOMIC | _GFP_NOWARN, self.radix_nodes)
        bdi = BackingDev(congestion, "swap", BDI_CAP_NO_ACCT_DIRTY | BDI_CAP_NO_WRITEBACK)
        self.swapper_space = AddressSpace(None, None, bdi, self.page_tree)  # type: ignore[arg-type]  # PageIo puts itself there
        filemap.swapper_space = self.swapper_space
        self.swap_readpage: Callable[[File | None, Page], int]
        self.total_swapcache_pages = 0

    # -- in and out of the cache -------------------------------------------------------------------------------------------------

    def _add_to_swap_cache(self, page: Page, entry: swp_entry_t, gfp: gfp_t) -> int:
        """Make a page the cached one of an entry; return 0, -EEXIST or -ENOMEM (__add_to_swap_cache())."""
        if page.flags & (PG_swapcache | PG_private):
            raise KernelBug("__add_to_swap_cache() of a page that is in the swap cache or has private data", state=page)
        error = self.radix_nodes.preload(gfp)
        if error:
            return error
        error = self.page_tree.insert(entry, page)
        if not error:
            page.count += 1
            page.flags |= PG_swapcache
            page.private = entry
            self.total_swapcache_pages += 1
            self.vmstat.nr_file_pages += 1
        self.radix_nodes.preload_end()
        return error

    def _delete_from_swap_cache(self, page: Page) -> None:
        """Take a page out of the cache's tree; its reference and its slot's count are the caller's (__delete_from_swap_cache())."""
        if page.flags & (PG_locked | PG_swapcache | PG_writeback | PG_private) != PG_locked | PG_swapcache:
            raise KernelBug("__delete_from_swap_cache() of a page that is not ready for it", state=page)
        if self.page_tree.delete(page.private) is not page:
            raise KernelBug(f"the swap cache has no such page at entry {page.private!r}", state=page)
        page.private = 0
        page.flags &= ~PG_swapcache
        self.total_swapcache_pages -= 1
        self.vmstat.nr_file_pages -= 1

    def delete_from_swap_cache(self, page: Page) -> None:
        """Take a locked page out of the cache, with the cache's count of its slot and the cache's reference."""
        entry = page.private
        self._delete_from_swap_cache(page)
        self.areas.swap_free(entry)
        self.lru.put_page(page)

    def add_to_swap(self, page: Page, gfp: gfp_t = GFP_ATOMIC) -> bool:
        """Give a locked anonymous page a slot and put it into the cache, dirty; False: no slot, or no memory for the tree."""
        if not page.flags & PG_locked:
            raise KernelBug("add_to_swap() of a page that is not locked", state=page)
        while True:
            entry = self.areas.get_swap_page()
            if not entry:
                return False
            error = self._add_to_swap_cache(page, entry, gfp | _GFP_NOMEMALLOC | _GFP_NOWARN)
            if not error:
                page.flags |= PG_uptodate | PG_dirty
                return True
            self.areas.swap_free(entry)
            if error != -EEXIST:  # -EEXIST: a speculative read has just filled this entry
                return False

    def add_to_swap_cache(self, page: Page, entry: swp_entry_t) -> int:
        """Make a fresh page the locked, not yet read page of an entry; -ENOENT: the slot was freed meanwhile."""
        if not self.areas.swap_duplicate(entry):
            return -ENOENT
        page.flags |= PG_locked
        error = self._add_to_swap_cache(page, entry, GFP_KERNEL)
        if error:
            page.flags &= ~PG_locked
            self.areas.swap_free(entry)
        return error

    # -- giving slots back -------------------------------------------------------------------------------------------------------

    def remove_exclusive_swap_page(self, page: Page) -> bool:
        """Drop a locked page from the cache if only the cache uses the slot, and cache and caller the page; it is dirty then."""
        if page.flags & PG_private or not page.flags & PG_locked:
            raise KernelBug("remove_exclusive_swap_page() of a page that is unlocked or has private data", state=page)
        if page.flags & (PG_swapcache | PG_writeback) != PG_swapcache or page.count != 2:
            return False
        if self.areas.swap_count(page.private) != 1:
            return False
        self.delete_from_swap_cache(page)
        page.flags |= PG_dirty
        return True

    def can_share_swap_page(self, page: Page) -> bool:
        """Tell whether a locked page has one user, so that a write needs no copy."""
        count = page.mapcount
        if count <= 1 and page.flags & PG_swapcache:
            count += self.areas.swap_count(page.private) - 1
        return count == 1

    def free_swap_and_cache(self, entry: swp_entry_t) -> None:
        """Drop a page table entry's count of a slot, and the cached page with it if nobody else wants it."""
        if self.areas.swap_free(entry) != 1:
            return
        page = self.lookup_swap_cache(entry)
        if page is None:
            return
        if self.filemap.trylock_page(page):
            one_user = page.count == 2
            if page.flags & (PG_swapcache | PG_writeback) == PG_swapcache and (one_user or self.areas.vm_swap_full()):
                self.delete_from_swap_cache(page)
                page.flags |= PG_dirty
            self.filemap.unlock_page(page)
        self.lru.put_page(page)

    # -- coming back -------------------------------------------------------------------------------------------------------------

    def lookup_swap_cache(self, entry: swp_entry_t) -> Page | None:
        """Return the cached page of an entry with one more reference, or None."""
        page: Page | None = self.page_tree.lookup(entry)
        if page is not None:
            page.count += 1
        return page

    def read_swap_cache_async(self, entry: swp_entry_t) -> Page | None:
        """Return the page of an entry with one more reference, being read if it was not cached; None: no memory or no slot."""
        new_page: Page | None = None
        while True:
            page = self.lookup_swap_cache(entry)
            if page is not None:
                break
            if new_page is None:
                new_page = self.page_alloc.alloc_pages(GFP_HIGHUSER_MOVABLE, 0)
                if new_page is None:
                    break
            error = self.add_to_swap_cache(new_page, entry)
            if not error:
                self.lru.lru_cache_add_active(new_page)
                self.swap_readpage(None, new_page)
                return new_page
            if error in {-ENOENT, -ENOMEM}:
                break
        if new_page is not None:
            self.lru.put_page(new_page)
        return page

    def swapin_readahead(self, entry: swp_entry_t) -> None:
        """Start reading the slots around an entry: pages that left together are wanted together."""
        area = entry & ~SWP_OFFSET_MASK
        for offset in self.areas.valid_swaphandles(entry):
            self.sched.spend(costs.SWAP_ENTRY)
            page = self.read_swap_cache_async(area | offset)
            if page is None:
                break
            self.lru.put_page(page)

    def check(self) -> None:
        """Assert that the tree holds what the counters say, and that every page's entry is its place."""
        found = 0
        first = 0
        while batch := self.page_tree.gang_lookup(first, 64):
            for page in batch:
                if not page.flags & PG_swapcache or page.flags & PG_private or self.page_tree.lookup(page.private) is not page:
                    raise KernelBug("a page of the swap cache does not stand where its entry says", state=page)
                if not self.areas.swap_count(page.private):
                    raise KernelBug("a page of the swap cache has a free slot", state=page)
                first = page.private + 1
            found += len(batch)
        if found != self.total_swapcache_pages:
            raise KernelBug(f"the swap cache holds {found} pages, but counts {self.total_swapcache_pages}")
