"""Swapoff's walk: every page of an area goes back to the process that it belongs to (2.6.23 mm/swapfile.c: try_to_unuse()).

Interface
    * :class:`Unuse`: ``try_to_unuse(si)``; ``vm_enough_memory(pages)``, which swapoff asks first.

Rules of this file
    * Slots are walked in order, again and again until none is in use: while one is read, a page that was still mapped may be
      unmapped to its old slot behind the walk.
    * The kernel looks through all page tables for each slot. Here one walk over them per lap makes a table of who uses what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EINTR, ENOMEM
from kemu.mm.mm_struct import MmStruct
from kemu.mm.page import ZERO_PAGE, Page, PG_dirty, PG_swapcache, PG_uptodate
from kemu.mm.pte import PTE_young, SwapPte
from kemu.mm.rmap import page_add_anon_rmap
from kemu.mm.shadow import Shadow
from kemu.mm.swap_info import SwapAreas, SwapInfo
from kemu.mm.swap_state import SwapState
from kemu.mm.swapops import SWP_TYPE_SHIFT, swp_entry_t


class Unuse:
    """``try_to_unuse()``.

    :param mms: every process's memory, by its number.
    :param enough: Memory's overcommit rule.
    """

    def __init__(
        self,
        kernel: Kernel,
        swap_state: SwapState,
        mms: Mapping[int, MmStruct],
        shadow: Shadow,
        enough: Callable[[int], bool],
    ) -> None:
        self.sched = kernel.sched
        self.judge = kernel.judge
        self.swap_state = swap_state
        self.areas: SwapAreas = swap_state.areas
        self.filemap = swap_state.filemap
        self.lru = swap_state.lru
        self.vmstat = swap_state.vmstat
        self.mms = mms
        self.shadow = shadow
        self.vm_enough_memory = enough

    def try_to_unuse(self, si: SwapInfo) -> int:
        """Empty an area whose WRITEOK is clear; -ENOMEM if a page cannot be had, -EINTR if the task is killed."""
        assert si.map is not None
        while inuse := si.map.inuse_pages:
            users = self._users(si)
            offset = 0
            while offset := si.map.next_in_use(offset + 1):
                if self.sched.current.killed:
                    return -EINTR
                error = self._unuse_slot(si, offset, users)
                if error:
                    return error
                self.sched.spend(costs.PAGE_FAULT)
                self.sched.cond_resched()
            if si.map.inuse_pages == inuse:
                self.sched.schedule_timeout(
                    1, ("sleep", None)
                )  # the kernel spins here: a slot is leaked, or its user is on its way
        return 0

    def _users(self, si: SwapInfo) -> dict[swp_entry_t, tuple[MmStruct, int]]:
        """Return who has which slot of the area in its page table."""
        users = {}
        for mm in self.mms.values():
            for vpn, pte in mm.ptes.items():
                if pte.__class__ is SwapPte and pte.entry >> SWP_TYPE_SHIFT == si.type:
                    users[pte.entry] = (mm, vpn)
        return users

    def _unuse_slot(self, si: SwapInfo, offset: int, users: Mapping[swp_entry_t, tuple[MmStruct, int]]) -> int:
        """Read one slot's page and give it to its user; the slot is free then, unless its user came after the lap began."""
        entry = si.type << SWP_TYPE_SHIFT | offset
        page = self.swap_state.read_swap_cache_async(entry)
        if page is None:
            return -ENOMEM if si.swap_map[offset] else 0
        self.filemap.wait_on_page_locked(page)
        self.filemap.wait_on_page_writeback(page)
        self.filemap.lock_page(page)
        self.filemap.wait_on_page_writeback(page)
        user = users.get(entry)
        if user is not None:
            self._unuse_pte(*user, page, entry)
        # A count of 1 is the cache's alone. More: a user that this lap's table does not know; the next lap will.
        if page.flags & PG_swapcache and page.private == entry and si.swap_map[offset] == 1:
            self.swap_state.delete_from_swap_cache(page)
            self.judge.progress()
        if page.flags & PG_uptodate:
            page.flags |= PG_dirty
        self.filemap.unlock_page(page)
        self.lru.put_page(page)
        return 0

    def _unuse_pte(self, mm: MmStruct, vpn: int, page: Page, entry: swp_entry_t) -> None:
        """Map the page where its entry stood, if it still stands there (unuse_pte())."""
        pte = mm.ptes.get(vpn)
        if not isinstance(pte, SwapPte) or pte.entry != entry:
            return
        self.shadow.verify_swapped_in(mm, vpn, page, entry)
        if page.contents is None:
            page.contents = ZERO_PAGE  # a read that failed: what the frame held
        mm.ptes[vpn] = page
        mm.anon_rss += 1
        page.count += 1
        page.flags |= PTE_young
        page_add_anon_rmap(page, mm, vpn)
        self.vmstat.nr_anon_pages += 1
        self.areas.swap_free(entry)
        self.lru.activate_page(page)
