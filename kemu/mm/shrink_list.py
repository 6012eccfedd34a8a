"""What reclaim does with one page (2.6.23 mm/vmscan.c: shrink_page_list(), pageout(), remove_mapping(); mm/rmap.c: try_to_unmap()).

Interface
    * :class:`ScanControl`, what one reclaimer may do; :class:`ShrinkList`: ``shrink_page_list(pages, sc, sync)``.

What happens to a page, in order
    1. Locked by somebody, or under writeback: keep.
    2. Used since last time and somebody would miss it: activate.
    3. Anonymous without a slot: give it one, or activate.
    4. Mapped: unmap, or activate if it was used just now.
    5. Dirty: write, if this reclaimer may; keep if the write has begun.
    6. Nobody but cache and reclaim refers to it: free.

Rules of this file
    * A dirty page is written only where gfp has FS, or IO and the page was in the swap cache *when it was looked at*: so GFP_NOFS
      starts swap-out, GFP_NOIO does not (patch 32 exists because of this line).
    * A negative return of ->writepage sets AS_EIO and nothing else. If the page is clean and not under writeback then, it counts as
      written, and is freed: its data are lost. That is the kernel's rule; patches 30 and b30a to b30e are about it.
    * The caller holds one reference to each page, taken when it isolated them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.task import PF_SWAPWRITE
from kemu.mm.address_space import AOP_WRITEPAGE_ACTIVATE, AddressSpace, WritebackControl
from kemu.mm.backing_dev import WRITE
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import _GFP_FS, _GFP_IO, GFP_ATOMIC, PAGE_ALLOC_COSTLY_ORDER, gfp_t
from kemu.mm.page import (
    Page,
    PG_active,
    PG_dirty,
    PG_locked,
    PG_lru,
    PG_private,
    PG_reclaim,
    PG_swapcache,
    PG_writeback,
)
from kemu.mm.pte import PTE_BITS, PTE_dirty, PTE_young, SwapPte
from kemu.mm.rmap import page_mapping_inuse, page_referenced
from kemu.mm.swap_state import SwapState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kemu.kernel.core import Kernel

SWAP_CLUSTER_MAX: Final = 32

# what pageout() answers
PAGE_KEEP: Final = 0
PAGE_ACTIVATE: Final = 1
PAGE_SUCCESS: Final = 2
PAGE_CLEAN: Final = 3

# what becomes of a page
_FREE: Final = 0
_KEEP: Final = 1  # unlocked already
_KEEP_LOCKED: Final = 2
_ACTIVATE: Final = 3


@attrs.define(eq=False)
class ScanControl:
    """``struct scan_control``: what one reclaimer may do, and how much it has looked at."""

    gfp_mask: gfp_t
    order: int = 0
    may_writepage: bool = True
    may_swap: bool = True
    swap_cluster_max: int = SWAP_CLUSTER_MAX
    swappiness: int = 60
    nr_scanned: int = 0
    all_unreclaimable: bool = False


class ShrinkList:
    """The per-page half of reclaim."""

    def __init__(self, kernel: Kernel, filemap: Filemap, swap_state: SwapState) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.filemap = filemap
        self.swap_state = swap_state
        self.page_alloc = filemap.page_alloc
        self.vmstat = filemap.vmstat
        self._try_to_unmap_file = filemap.file_rmap.try_to_unmap_file
        self._tp_writepage = kernel.trace.point("vmscan:mm_vmscan_writepage", ("page", "pfn", "flags"))

    def shrink_page_list(self, pages: Iterable[Page], sc: ScanControl, sync: bool = False) -> tuple[int, list[Page]]:
        """Try to free isolated pages; return how many went and the rest, in order."""
        sched = self.sched
        filemap = self.filemap
        put_page = self.page_alloc.put_page
        kept: list[Page] = []
        freed = 0
        for page in pages:
            sched.cond_resched()
            sched.spend(costs.SCAN_PAGE)
            if page.flags & PG_locked:
                kept.append(page)
                continue
            page.flags |= PG_locked
            fate = self._shrink_page(page, sc, sync)
            if fate == _FREE:
                page.flags &= ~PG_locked
                page.mapping = None  # an anonymous page's; a file's page has lost it already
                put_page(page)
                freed += 1
                continue
            if fate == _ACTIVATE:
                page.flags |= PG_active
                self.vmstat.pgactivate += 1
            if fate != _KEEP:
                filemap.unlock_page(page)
            kept.append(page)
        return freed, kept

    def _shrink_page(self, page: Page, sc: ScanControl, sync: bool) -> int:
        """Decide about one page that this reclaimer has locked (the loop of shrink_page_list())."""
        flags = page.flags
        gfp = sc.gfp_mask
        mapped = page.mapcount
        if not sc.may_swap and mapped:
            return _KEEP_LOCKED
        # mapped pages and pages of the swap cache count double, so that slab feels more pressure
        sc.nr_scanned += 2 if mapped or flags & PG_swapcache else 1
        may_enter_fs = gfp & _GFP_FS or (flags & PG_swapcache and gfp & _GFP_IO)
        if flags & PG_writeback:
            if not sync or not may_enter_fs:
                return _KEEP_LOCKED
            self.filemap.wait_on_page_writeback(page)

        referenced = page_referenced(page)
        costly = sc.order > PAGE_ALLOC_COSTLY_ORDER
        if referenced and not costly and page_mapping_inuse(page):
            return _ACTIVATE

        mapping = page.mapping
        if mapping is not None and mapping.is_anon:
            if not page.flags & PG_swapcache and not self.swap_state.add_to_swap(page, GFP_ATOMIC):
                return _ACTIVATE
            mapping = self.swap_state.swapper_space
        elif page.flags & PG_swapcache:
            mapping = self.swap_state.swapper_space  # read ahead, and never mapped

        if page.mapcount and mapping is not None and not self.try_to_unmap(page):
            return _ACTIVATE

        if page.flags & PG_dirty:
            if (referenced and not costly) or not may_enter_fs or not sc.may_writepage:
                return _KEEP_LOCKED
            outcome = self.pageout(page, mapping, sync)
            if outcome == PAGE_KEEP:
                return _KEEP_LOCKED
            if outcome == PAGE_ACTIVATE:
                return _ACTIVATE
            if outcome == PAGE_SUCCESS:
                # ->writepage has unlocked the page. A write that is over already: try to free it now.
                if page.flags & (PG_writeback | PG_dirty | PG_locked):
                    return _KEEP
                page.flags |= PG_locked
                mapping = self.filemap.page_mapping(page)

        if page.flags & PG_private:
            return _ACTIVATE  # try_to_release_page(): no file system here lets go of private data at reclaim's word
        if mapping is None or not self.remove_mapping(mapping, page):
            return _KEEP_LOCKED
        return _FREE

    def pageout(self, page: Page, mapping: AddressSpace | None, sync: bool = False) -> int:
        """Write a dirty, locked page of an address space; return PAGE_*."""
        # cache and isolator; whoever else refers to it would keep it from being freed
        if page.count - (1 if page.flags & PG_private else 0) != 2 or mapping is None:
            return PAGE_KEEP
        bdi = mapping.backing_dev_info
        if bdi is not None and bdi.congested(WRITE) and not self.sched.current.flags & PF_SWAPWRITE:
            return PAGE_KEEP
        if not self.filemap.clear_page_dirty_for_io(page):
            return PAGE_CLEAN
        wbc = WritebackControl(SWAP_CLUSTER_MAX, for_reclaim=True, nonblocking=True)
        page.flags |= PG_reclaim
        if self._tp_writepage.enabled:
            self._tp_writepage(page.address, page.pfn, page.flags)
        result = mapping.a_ops.writepage(page, wbc)
        if result < 0:
            self._handle_write_error(mapping, page, result)
        if result == AOP_WRITEPAGE_ACTIVATE:
            page.flags &= ~PG_reclaim
            return PAGE_ACTIVATE
        if page.flags & PG_writeback and sync:
            self.filemap.wait_on_page_writeback(page)
        if not page.flags & PG_writeback:
            page.flags &= ~PG_reclaim  # a synchronous write, or an error
        return PAGE_SUCCESS

    def _handle_write_error(self, mapping: AddressSpace, page: Page, error: int) -> None:
        """Leave a note for fsync; nobody syncs the swapper's address space (handle_write_error())."""
        self.filemap.lock_page(page)
        if self.filemap.page_mapping(page) is mapping:
            mapping.set_error(error)
        self.filemap.unlock_page(page)

    def try_to_unmap(self, page: Page) -> bool:
        """Take a page out of the page tables that map it; False if it was used just now (try_to_unmap(), try_to_unmap_one())."""
        if not page.mapping.is_anon:
            return self._try_to_unmap_file(page)
        if page.flags & PTE_young:
            page.flags &= ~PTE_young
            return False
        mm = page.mapping.mm
        vpn = page.word_d
        if mm.ptes.get(vpn) is not page or not page.flags & PG_swapcache:
            raise KernelBug(f"try_to_unmap(): {mm!r} does not map the page at {vpn}, or it has no slot", state=page)
        dirty = page.flags & PTE_dirty
        page.flags &= ~PTE_BITS
        if dirty:
            self.filemap.set_page_dirty(page)
        self.swap_state.areas.swap_duplicate(page.private)
        mm.ptes[vpn] = SwapPte(page.private)
        mm.anon_rss -= 1
        page.mapcount = 0
        self.vmstat.nr_anon_pages -= 1
        page.count -= 1
        return True

    def remove_mapping(self, mapping: AddressSpace, page: Page) -> bool:
        """Take a locked, clean page that only cache and isolator refer to out of its cache; the isolator's reference is left."""
        if page.count != 2 or page.flags & PG_dirty:
            return False
        if page.flags & (PG_lru | PG_writeback):
            raise KernelBug("remove_mapping() of a page that is on a list or under writeback", state=page)
        if page.flags & PG_swapcache:
            entry = page.private
            self.swap_state._delete_from_swap_cache(page)
            self.swap_state.areas.swap_free(entry)
        else:
            self.filemap.remove_from_page_cache(page)
        page.count -= 1
        return True

    def may_go(self, page: Page) -> bool:
        """Tell whether reclaim could still do something with a page: for the judge, not for reclaim."""
        flags = page.flags
        if flags & (PG_writeback | PG_locked) or flags & (PG_private | PG_dirty) == PG_private:
            return False
        if flags & PG_swapcache:
            return page.count - (1 if page.mapcount else 0) == 1
        if page.mapping is not None and page.mapping.is_anon:
            return self.swap_state.areas.nr_swap_pages > 0
        # the cache's reference, each process's, and a file system's that has yet to write the page
        return page.count - page.mapcount - (1 if flags & PG_private else 0) == 1
