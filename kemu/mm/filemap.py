"""Pages that somebody may wait for: lock, writeback and dirty bits, and the page cache (2.6.23 mm/filemap.c, mm/page-writeback.c).

Interface
    * ``lock_page``, ``trylock_page``, ``unlock_page``, ``wait_on_page_locked``.
    * ``set_page_writeback``, ``end_page_writeback``, ``wait_on_page_writeback``.
    * ``set_page_dirty``, ``set_page_dirty_nobuffers``, ``clear_page_dirty_for_io``.
    * ``page_mapping(page)``: the address space whose methods serve the page: the swapper's, a file's, or None.
    * ``add_to_page_cache``, ``find_get_page``, ``find_or_create_page``, ``read_mapping_page``, ``remove_from_page_cache``,
      ``truncate_inode_pages``.

Rules of this file
    * end_page_writeback() may be called from any context; so may unlock_page(). They wake, they never sleep.
    * Wait queues exist while somebody waits; the common case of unlock_page() is one test of a dictionary.
    * ``writeback_owner`` is set by who does the I/O: it names what a page under I/O waits for, for the chain of waits.
    * Left out: radix tree tags, buffer heads, mmap of files, readahead of files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EIO, ENOENT, ENOMEM
from kemu.kernel.wait import WaitQueue
from kemu.lib.radix_tree import RadixNodes, RadixTree
from kemu.mm.address_space import AddressSpace, File
from kemu.mm.backing_dev import BDI_CAP_NO_ACCT_DIRTY
from kemu.mm.gfp import _GFP_HIGHMEM, _GFP_NOWARN, GFP_ATOMIC, GFP_HIGHUSER, gfp_t
from kemu.mm.lru import Lru
from kemu.mm.page import (
    Page,
    PG_dirty,
    PG_locked,
    PG_private,
    PG_reclaim,
    PG_swapcache,
    PG_uptodate,
    PG_writeback,
)

Link = tuple[str, Any]


class _PageWait:
    """Who waits for bits of one page; there while somebody does (the kernel hashes pages to ``wait_table`` entries)."""

    __slots__ = ("queue", "users")

    def __init__(self, page: Page) -> None:
        self.queue = WaitQueue(f"page {page.pfn:#x}")
        self.users = 0


class Filemap:
    """Locks, writeback and the page cache of a machine.

    :param radix_nodes: what the address spaces' trees are made of.
    :ivar swapper_space: set by SwapState.
    :ivar writeback_owner: set by a file system: the (kind, object) that a page under I/O waits for.
    """

    def __init__(self, kernel: Kernel, lru: Lru, radix_nodes: RadixNodes) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.lru = lru
        self.page_alloc = lru.page_alloc
        self.vmstat = lru.vmstat
        self.radix_nodes = radix_nodes
        self.swapper_space: AddressSpace | None = None
        self.writeback_owner: Callable[[Page], Link | None] | None = None
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
        """Mark a page as changed, nothing beside it; tell whether it was clean (__set_page_dirty_nobuffers())."""
        if page.flags & PG_dirty:
            return False
        page.flags |= PG_dirty
        if self._accounts_dirty(page):
            self.vmstat.nr_dirty += 1
        return True

    def clear_page_dirty_for_io(self, page: Page) -> bool:
        """Take the dirty bit before the page is written; tell whether it was set."""
        if not page.flags & PG_dirty:
            return False
        page.flags &= ~PG_dirty
        if self._accounts_dirty(page):
            self.vmstat.nr_dirty -= 1
        return True

    def _accounts_dirty(self, page: Page) -> bool:
        """Tell whether the page's dirty bit is in NR_FILE_DIRTY (mapping_cap_account_dirty())."""
        mapping = self.page_mapping(page)
        if mapping is None or mapping.backing_dev_info is None:
            return False
        return not mapping.backing_dev_info.capabilities & BDI_CAP_NO_ACCT_DIRTY

    # -- the page cache --------------------------------------------------------------------------------------------------------

    def add_to_page_cache(self, page: Page, mapping: AddressSpace, index: int, gfp: gfp_t) -> int:
        """Make a fresh page the locked page ``index`` of a file; return 0, -EEXIST or -ENOMEM. The cache takes a reference."""
        tree = mapping.page_tree
        if tree is None:
            tree = mapping.page_tree = RadixTree(GFP_ATOMIC | _GFP_NOWARN, self.radix_nodes)
        error = self.radix_nodes.preload(gfp & ~_GFP_HIGHMEM)
        if error:
            return error
        error = tree.insert(index, page)
        if not error:
            page.count += 1
            page.flags |= PG_locked
            page.mapping = mapping
            page.word_d = index
            mapping.nrpages += 1
            self.vmstat.nr_file_pages += 1
        self.radix_nodes.preload_end()
        return error

    def remove_from_page_cache(self, page: Page) -> None:
        """Take a locked page out of its file's tree; the caller drops the cache's reference (__remove_from_page_cache())."""
        mapping = page.mapping
        mapping.page_tree.delete(page.word_d)
        page.mapping = None
        mapping.nrpages -= 1
        self.vmstat.nr_file_pages -= 1

    def find_get_page(self, mapping: AddressSpace, index: int) -> Page | None:
        """Return the cached page with one more reference, or None."""
        page: Page | None = mapping.page_tree.lookup(index) if mapping.page_tree is not None else None
        if page is not None:
            page.count += 1
        return page

    def find_lock_page(self, mapping: AddressSpace, index: int) -> Page | None:
        """Return the cached page locked and with one more reference, or None; it may have been truncated while we slept."""
        while (page := self.find_get_page(mapping, index)) is not None:
            self.lock_page(page)
            if page.mapping is mapping and page.word_d == index:
                return page
            self.unlock_page(page)
            self.lru.put_page(page)
        return None

    def find_or_create_page(self, mapping: AddressSpace, index: int, gfp: gfp_t = GFP_HIGHUSER) -> Page | None:
        """Return page ``index`` locked and with one more reference; None if there is no memory for a new one."""
        while True:
            page = self.find_lock_page(mapping, index)
            if page is not None:
                return page
            page = self.page_alloc.alloc_page(gfp)
            if page is None:
                return None
            error = self.add_to_page_cache(page, mapping, index, gfp)
            if not error:
                self.lru.lru_cache_add(page)
                return page
            self.lru.put_page(page)
            if error == -ENOMEM:
                return None

    def read_mapping_page(self, mapping: AddressSpace, index: int, file: File | None) -> Page | int:
        """Return an uptodate page with one more reference, read if need be, or -errno."""
        page = self.find_or_create_page(mapping, index)
        if page is None:
            return -ENOMEM
        if page.flags & PG_uptodate:
            self.unlock_page(page)
            return page
        error = mapping.a_ops.readpage(file, page)
        if not error:
            self.wait_on_page_locked(page)
            if page.flags & PG_uptodate:
                self.lru.mark_page_accessed(page)
                return page
            error = -EIO
        self.lru.put_page(page)
        return error

    def truncate_inode_pages(self, mapping: AddressSpace, first: int = 0) -> int:
        """Drop the cached pages from ``first`` on, dirty or not; return -ENOENT if a page is still somebody's private data."""
        left = 0
        while mapping.page_tree is not None and (batch := mapping.page_tree.gang_lookup(first, 16)):
            for page in batch:
                page.count += 1
                self.lock_page(page)
                self.wait_on_page_writeback(page)
                if page.mapping is mapping:
                    first = page.word_d + 1
                    if page.flags & PG_private:
                        left = -ENOENT
                    else:
                        self.clear_page_dirty_for_io(page)
                        self.remove_from_page_cache(page)
                        self.lru.put_page(page)
                self.unlock_page(page)
                self.lru.put_page(page)
        return left

    # -- who waits for what ----------------------------------------------------------------------------------------------------

    def _explain_lock(self, page: Page) -> tuple[str, Link | None]:
        return f"the lock of page {page.pfn:#x}", self._owner(page)

    def _explain_writeback(self, page: Page) -> tuple[str, Link | None]:
        return f"the end of writeback of page {page.pfn:#x}", self._owner(page)

    def _owner(self, page: Page) -> Link | None:
        return self.writeback_owner(page) if self.writeback_owner is not None else None
