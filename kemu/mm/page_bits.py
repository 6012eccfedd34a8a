"""Bits of a page that somebody may wait for: lock, writeback, dirty (2.6.23 mm/filemap.c, mm/page-writeback.c).

Interface
    * :class:`PageBits`, the first half of Filemap: ``lock_page``, ``trylock_page``, ``unlock_page``, ``wait_on_page_locked``;
      ``set_page_writeback``, ``end_page_writeback``, ``wait_on_page_writeback``;
      ``set_page_dirty``, ``set_page_dirty_nobuffers``, ``clear_page_dirty_for_io``, ``cancel_dirty_page``,
      ``redirty_page_for_writepage``; ``page_mapping(page)``.

Rules of this file
    * end_page_writeback() may be called from any context; so may unlock_page(). They wake, they never sleep.
    * Wait queues exist while somebody waits; the common case of unlock_page() is one test of a dictionary.
    * ``writeback_owner`` is set by who does the I/O: it names what a page under I/O waits for, for the chain of waits.
    * The page cache's tree is tagged where pages of files are dirty or under writeback. The dirty tag stays when a page is made
      clean for its write, and goes when the write begins. The swap cache's tree has no tags: nobody looks for dirty pages there.
    * Who dirties the first page of a file puts the inode on its super block's list (``mark_inode_dirty``, handed over).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.wait import WaitQueue
from kemu.lib.radix_tree import TAG_DIRTY, TAG_WRITEBACK
from kemu.mm.address_space import I_DIRTY_PAGES, AddressSpace, Inode, WritebackControl
from kemu.mm.backing_dev import BDI_CAP_NO_ACCT_DIRTY
from kemu.mm.file_rmap import page_mkclean_file
from kemu.mm.lru import Lru
from kemu.mm.page import Page, PG_dirty, PG_locked, PG_reclaim, PG_swapcache, PG_writeback

Link = tuple[str, Any]


class _PageWait:
    """Who waits for bits of one page; there while somebody does (the kernel hashes pages to ``wait_table`` entries)."""

    __slots__ = ("queue", "users")

    def __init__(self, page: Page) -> None:
        self.queue = WaitQueue(f"page {page.pfn:#x}")
        self.users = 0


class PageBits:
    """Locks, writeback and dirty bits of a machine's pages.

    :ivar swapper_space: set by SwapState.
    :ivar writeback_owner: set by a file system: the (kind, object) that a page under I/O waits for.
    :ivar mark_inode_dirty: handed over by fs_writeback.py: (inode, I_DIRTY_*).
    """

    def __init__(self, kernel: Kernel, lru: Lru) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.lru = lru
        self.page_alloc = lru.page_alloc
        self.vmstat = lru.vmstat
        self.swapper_space: AddressSpace | None = None
        self.writeback_owner: Callable[[Page], Link | None] | None = None
        self.mark_inode_dirty: Callable[[Inode, int], None] | None = None
        self._waiters: dict[Page, _PageWait] = {}
        self._judge = kernel.judge
        self._judge.explainers["page lock"] = self._explain_lock
        self._judge.explainers["writeback"] = self._explain_writeback

    def page_mapping(self, page: Page) -> AddressSpace | None:
        """Return the address space that serves the page (include/linux/mm.h)."""
        if page.flags & PG_swapcache:
            return self.swapper_space
        mapping = page.mapping
        if mapping is None or mapping.is_anon:
            return None
        return mapping  # type: ignore[no-any-return]  # word C of a page that is neither slab nor tail

    # -- waiting ---------------------------------------------------------------------------------------------------------------

    def _wait_on_page_bit(self, page: Page, mask: int, kind: str) -> None:
        """Sleep until a bit is clear; tell the file system that somebody waits (sync_page())."""
        mapping = self.page_mapping(page)
        if mapping is not None:
            mapping.a_ops.sync_page(page)
        waiting = self._waiters.get(page)
        if waiting is None:
            waiting = self._waiters[page] = _PageWait(page)
        waiting.users += 1
        try:
            self.sched.wait_event(waiting.queue, lambda: not page.flags & mask, (kind, page))
        finally:
            waiting.users -= 1
            if not waiting.users:
                del self._waiters[page]

    def _wake_up_page(self, page: Page) -> None:
        """Wake who waits for any bit of the page."""
        self.sched.wake_up_all(self._waiters[page].queue)

    # -- the page lock ---------------------------------------------------------------------------------------------------------

    def trylock_page(self, page: Page) -> bool:
        """Lock a page if nobody else has (!TestSetPageLocked())."""
        if page.flags & PG_locked:
            return False
        page.flags |= PG_locked
        return True

    def lock_page(self, page: Page) -> None:
        """Lock a page; sleep while somebody else has it locked."""
        while page.flags & PG_locked:
            self._wait_on_page_bit(page, PG_locked, "page lock")
        page.flags |= PG_locked

    def unlock_page(self, page: Page) -> None:
        """Unlock a page and wake who waits for it."""
        if not page.flags & PG_locked:
            raise KernelBug("unlock_page() of a page that is not locked", state=page)
        page.flags &= ~PG_locked
        if page in self._waiters:
            self._wake_up_page(page)

    def wait_on_page_locked(self, page: Page) -> None:
        """Sleep while the page is locked; the caller holds a reference."""
        while page.flags & PG_locked:
            self._wait_on_page_bit(page, PG_locked, "page lock")

    # -- writeback -------------------------------------------------------------------------------------------------------------

    def set_page_writeback(self, page: Page) -> bool:
        """Say that the page is being written; tell whether it was already (test_set_page_writeback())."""
        if page.flags & PG_writeback:
            return True
        page.flags |= PG_writeback
        self.vmstat.nr_writeback += 1
        mapping = self._file_of(page)
        if mapping is not None and mapping.page_tree is not None:
            mapping.page_tree.tag_set(page.word_d, TAG_WRITEBACK)
            if not page.flags & PG_dirty:
                mapping.page_tree.tag_clear(page.word_d, TAG_DIRTY)
        return False

    def end_page_writeback(self, page: Page) -> None:
        """Say that the page is written: a page that reclaim waits for becomes the next to be scanned."""
        if not page.flags & PG_writeback:
            raise KernelBug("end_page_writeback() of a page that is not under writeback", state=page)
        if page.flags & PG_reclaim:
            page.flags &= ~PG_reclaim
            self.lru.rotate_reclaimable_page(page)
        page.flags &= ~PG_writeback
        self.vmstat.nr_writeback -= 1
        mapping = self._file_of(page)
        if mapping is not None and mapping.page_tree is not None:
            mapping.page_tree.tag_clear(page.word_d, TAG_WRITEBACK)
        if page in self._waiters:
            self._wake_up_page(page)
        self._judge.progress()

    def wait_on_page_writeback(self, page: Page) -> None:
        """Sleep while the page is being written."""
        while page.flags & PG_writeback:
            self._wait_on_page_bit(page, PG_writeback, "writeback")

    # -- dirty -----------------------------------------------------------------------------------------------------------------

    def set_page_dirty(self, page: Page) -> bool:
        """Mark a page as changed, by its address space's method; tell whether it was clean."""
        mapping = self.page_mapping(page)
        if mapping is not None:
            return bool(mapping.a_ops.set_page_dirty(page))
        return self.set_page_dirty_nobuffers(page)

    def set_page_dirty_nobuffers(self, page: Page) -> bool:
        """Mark a page as changed, and its place in its file; tell whether it was clean (__set_page_dirty_nobuffers())."""
        if page.flags & PG_dirty:
            return False
        page.flags |= PG_dirty
        mapping = self._file_of(page)
        if mapping is None:
            return True
        if self.accounts_dirty(mapping):
            self.vmstat.nr_dirty += 1
        if mapping.page_tree is not None:
            mapping.page_tree.tag_set(page.word_d, TAG_DIRTY)
        if mapping.host is not None and self.mark_inode_dirty is not None:
            self.mark_inode_dirty(mapping.host, I_DIRTY_PAGES)
        return True

    def redirty_page_for_writepage(self, wbc: WritebackControl, page: Page) -> bool:
        """Give a page back that ->writepage cannot write now (redirty_page_for_writepage())."""
        wbc.pages_skipped += 1
        return self.set_page_dirty_nobuffers(page)

    def clear_page_dirty_for_io(self, page: Page) -> bool:
        """Take the dirty bit before the page is written; tell whether it was set.

        From here on a store by a process faults, and makes the page dirty again.
        """
        mapping = self._file_of(page)
        if mapping is not None and self.accounts_dirty(mapping):
            if page.mapcount and page_mkclean_file(page):
                self.set_page_dirty(page)
            if not page.flags & PG_dirty:
                return False
            page.flags &= ~(PG_dirty | PG_reclaim)
            self.vmstat.nr_dirty -= 1
            return True
        if not page.flags & PG_dirty:
            return False
        page.flags &= ~PG_dirty
        return True

    def cancel_dirty_page(self, page: Page) -> None:
        """Forget what was written to a page that leaves its file (cancel_dirty_page())."""
        if page.flags & PG_dirty:
            page.flags &= ~PG_dirty
            mapping = self._file_of(page)
            if mapping is not None and self.accounts_dirty(mapping):
                self.vmstat.nr_dirty -= 1

    def _file_of(self, page: Page) -> AddressSpace | None:
        """Return the file that caches the page; None for anonymous pages, also in the swap cache."""
        mapping = page.mapping
        if mapping is None or mapping.is_anon or page.flags & PG_swapcache:
            return None
        return mapping  # type: ignore[no-any-return]  # as in page_mapping()

    def accounts_dirty(self, mapping: AddressSpace) -> bool:
        """Tell whether the dirty pages of a file are in NR_FILE_DIRTY (mapping_cap_account_dirty())."""
        bdi = mapping.backing_dev_info
        return bdi is not None and not bdi.capabilities & BDI_CAP_NO_ACCT_DIRTY

    # -- who waits for what ----------------------------------------------------------------------------------------------------

    def _explain_lock(self, page: Page) -> tuple[str, Link | None]:
        return f"the lock of page {page.pfn:#x}", self._owner(page)

    def _explain_writeback(self, page: Page) -> tuple[str, Link | None]:
        return f"the end of writeback of page {page.pfn:#x}", self._owner(page)

    def _owner(self, page: Page) -> Link | None:
        return self.writeback_owner(page) if self.writeback_owner is not None else None
