"""Faults on mapped files, and what user code does with their pages (2.6.23 mm/memory.c: __do_fault(), do_wp_page(); mm/filemap.c).

Interface
    * :class:`FileFault`: ``do_fault(mm, vpn, write)`` for an entry that is not there, ``do_wp_page(mm, vpn, pte)`` for a write to
      one that is read only; ``store(pte, data)``, ``load(mm, pte)``: the access itself.
    * ``filemap_fault(vma, index)``: finds or reads the page of a file.

Rules of this file
    * A page is mapped read only by a read, also in a mapping that may write: the first store faults, tells the file system
      (->page_mkwrite, where it has one) and the dirty accounting, and waits if too much is dirty.
    * Between ->page_mkwrite and the entry's PTE_write no time passes here. In the kernel it may: a writer who comes in between
      cleans the page behind the file system's back. Version 2.6.30 closed that window by returning with the page locked.
    * A store to a private mapping copies the page; the copy is an anonymous page like those of the heap.
    * Beyond the end of the file there is no page: SIGBUS.
    * A fault that had to read is a major one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.mm.file_rmap import page_add_file_rmap
from kemu.mm.gfp import GFP_HIGHUSER_MOVABLE, PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import ZERO_PAGE, Page, PG_error, PG_uptodate
from kemu.mm.pte import FilePte, PTE_dirty, PTE_write, PTE_young
from kemu.mm.vm_fault import VM_FAULT_MAJOR, VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV

if TYPE_CHECKING:
    from kemu.mm.dirty_balance import DirtyBalance
    from kemu.mm.memory import Memory
    from kemu.mm.mm_struct import MmStruct, Vma
    from kemu.mm.readahead import Readahead


class FileFault:
    """The fault path of mapped files.

    :param memory: maps the copies of private mappings, which are anonymous pages.
    :ivar balance: handed over: slows down who dirties too much; None: nobody does.
    :ivar between: faults that have made an entry writable and not yet its page dirty.
    """

    def __init__(self, memory: Memory, readahead: Readahead) -> None:
        self.memory = memory
        self.sched = memory.sched
        self.filemap = memory.filemap
        self.lru = memory.lru
        self.page_alloc = memory.page_alloc
        self.vmstat = memory.vmstat
        self.shadow = memory.shadow
        self.rmap = memory.filemap.file_rmap
        self.readahead = readahead
        self.balance: DirtyBalance | None = None
        self.between = 0

    # -- user code -------------------------------------------------------------------------------------------------------------

    def store(self, pte: FilePte, data: bytes) -> None:
        """Replace the contents of a page that is mapped for writing."""
        page = pte.page
        pte.flags |= PTE_young | PTE_dirty
        page.contents = data
        self.shadow.record_file(page.mapping, page.word_d, data)

    def load(self, mm: MmStruct, pte: FilePte) -> bytes:
        """Return the contents of a mapped page."""
        page = pte.page
        pte.flags |= PTE_young
        contents = page.contents or ZERO_PAGE
        self.shadow.verify_file(page.mapping, page.word_d, contents, f"read by {mm.owner.comm}:{mm.owner.pid}")
        return contents

    # -- faults ----------------------------------------------------------------------------------------------------------------

    def find_vma(self, mm: MmStruct, vpn: int) -> Vma | None:
        """Return the mapped file at a virtual page."""
        for vma in mm.vmas:
            if vma.start <= vpn < vma.end:
                return vma
        return None

    def do_fault(self, mm: MmStruct, vpn: int, write: bool) -> int:
        """Map a page of a file where nothing is mapped (do_linear_fault(), __do_fault())."""
        vma = self.find_vma(mm, vpn)
        if vma is None:
            return VM_FAULT_SIGSEGV
        page, result = self.filemap_fault(vma, vma.index_of(vpn))
        if page is None:
            return result
        if write and not vma.shared:
            return result | self._fault_copy(mm, vpn, page)
        notified = False
        if write:
            notified, error = self._page_mkwrite(vma, page)
            if error or page.mapping is not vma.mapping:
                self.filemap.unlock_page(page)
                self.lru.put_page(page)
                return VM_FAULT_SIGBUS if error else result
        if mm.ptes.get(vpn) is not None or self.find_vma(mm, vpn) is not vma:
            self.filemap.unlock_page(page)  # somebody was here before us: the access is tried again
            self.lru.put_page(page)
            return result
        flags = PTE_young
        if write or (vma.shared and not self._wants_writenotify(vma)):
            flags |= PTE_write
        pte = page_add_file_rmap(page, mm, vpn, flags, self.vmstat)
        if not write:
            self.filemap.unlock_page(page)
            return result
        pte.flags |= PTE_dirty
        page.count += 1
        self.filemap.unlock_page(page)
        self._set_page_dirty_balance(page, notified)
        self.lru.put_page(page)
        return result

    def do_wp_page(self, mm: MmStruct, vpn: int, pte: FilePte) -> int:
        """Let a page that is mapped read only be written (do_wp_page()): by a copy if the mapping is private."""
        if pte.flags & PTE_write:
            return 0
        vma = self.find_vma(mm, vpn)
        if vma is None:
            return VM_FAULT_SIGSEGV
        page = pte.page
        page.count += 1
        if not vma.shared:
            return self._wp_copy(mm, vpn, pte, page)
        notified = False
        mkwrite = getattr(vma.mapping.a_ops, "page_mkwrite", None)  # NULL in C where the file system has none
        if mkwrite is not None:
            if mkwrite(vma, page) < 0:
                self.lru.put_page(page)
                return VM_FAULT_SIGBUS
            notified = True
            if mm.ptes.get(vpn) is not pte:
                self.lru.put_page(page)
                return 0
        pte.flags |= PTE_young | PTE_dirty | PTE_write
        # who cleans the page for a write may have looked at our entry before, and takes the page's bit after us
        self.between += 1
        self.filemap.wait_on_page_locked(page)
        self.between -= 1
        self._set_page_dirty_balance(page, notified)
        self.lru.put_page(page)
        return 0

    def _page_mkwrite(self, vma: Vma, page: Page) -> tuple[bool, int]:
        """Tell the file system that a locked page will be written; it is locked again afterwards."""
        mkwrite = getattr(vma.mapping.a_ops, "page_mkwrite", None)  # NULL in C where the file system has none
        if mkwrite is None:
            return False, 0
        self.filemap.unlock_page(page)
        error = mkwrite(vma, page)
        self.filemap.lock_page(page)
        return True, min(error, 0)

    def _wants_writenotify(self, vma: Vma) -> bool:
        """Tell whether a shared mapping must fault at the first store (vma_wants_writenotify())."""
        if getattr(vma.mapping.a_ops, "page_mkwrite", None) is not None:  # NULL in C where the file system has none
            return True
        return self.filemap.accounts_dirty(vma.mapping)

    def _set_page_dirty_balance(self, page: Page, notified: bool) -> None:
        """Make a page dirty, and wait if too much is (set_page_dirty_balance())."""
        if self.filemap.set_page_dirty(page) or notified:
            mapping = self.filemap.page_mapping(page)
            if mapping is not None and self.balance is not None:
                self.balance.balance_dirty_pages_ratelimited(mapping)

    # -- copies of private mappings --------------------------------------------------------------------------------------------

    def _fault_copy(self, mm: MmStruct, vpn: int, old: Page) -> int:
        """Map a copy of a locked page at once: the first access is a store."""
        page = self.page_alloc.alloc_pages(GFP_HIGHUSER_MOVABLE, 0)
        result = VM_FAULT_OOM
        if page is not None and mm.ptes.get(vpn) is None and self.find_vma(mm, vpn) is not None:
            self._map_copy(mm, vpn, page, old)
            result = 0
        elif page is not None:
            self.page_alloc.free_pages(page)
            result = 0
        self.filemap.unlock_page(old)
        self.lru.put_page(old)
        return result

    def _wp_copy(self, mm: MmStruct, vpn: int, pte: FilePte, old: Page) -> int:
        """Put a copy in the place of a page that is mapped read only."""
        page = self.page_alloc.alloc_pages(GFP_HIGHUSER_MOVABLE, 0)
        if page is None:
            self.lru.put_page(old)
            return VM_FAULT_OOM
        if mm.ptes.get(vpn) is pte:
            self.rmap.zap_file_pte(mm, vpn, pte)
            self._map_copy(mm, vpn, page, old)
        else:
            self.page_alloc.free_pages(page)
        self.lru.put_page(old)
        return 0

    def _map_copy(self, mm: MmStruct, vpn: int, page: Page, old: Page) -> None:
        """Map a fresh page with another's contents, as the process's own."""
        self.sched.spend(costs.COPY_PAGE)
        page.contents = old.contents or ZERO_PAGE
        page.flags |= PG_uptodate
        self.shadow.record(mm.mm_id, vpn, page.contents)
        self.memory.map_new_page(mm, vpn, page)

    # -- the page of a file ----------------------------------------------------------------------------------------------------

    def filemap_fault(self, vma: Vma, index: int) -> tuple[Page | None, int]:
        """Return a page of a file, locked, uptodate, with a reference, and VM_FAULT_MAJOR if it was read; or None and why not."""
        filemap = self.filemap
        mapping = vma.mapping
        assert mapping.host is not None
        result = 0
        while index < _pages_of(mapping.host.size):
            page = filemap.find_lock_page(mapping, index)
            if page is not None and not result:
                vma.file.mmap_hit += 1
            elif page is None and not result:
                result = VM_FAULT_MAJOR
                self.vmstat.pgmajfault += 1
                self.readahead.around(mapping, vma.file, index)
                page = filemap.find_lock_page(mapping, index)
            if page is None:
                page = filemap.find_or_create_page(mapping, index)
                if page is None:
                    return None, VM_FAULT_OOM
            if page.flags & PG_uptodate:
                if index < _pages_of(mapping.host.size):
                    self.lru.mark_page_accessed(page)
                    return page, result
                filemap.unlock_page(page)
                self.lru.put_page(page)
                break
            if not result:
                result = VM_FAULT_MAJOR
                self.vmstat.pgmajfault += 1
            if not self._read_once(vma, page):
                return None, VM_FAULT_SIGBUS
        return None, VM_FAULT_SIGBUS

    def _read_once(self, vma: Vma, page: Page) -> bool:
        """Read a locked page and wait; drops the lock and the reference. False if it could not be read."""
        page.flags &= ~PG_error
        error = vma.mapping.a_ops.readpage(vma.file, page)
        if not error:
            self.filemap.wait_on_page_locked(page)
        good = not error and bool(page.flags & PG_uptodate or page.mapping is not vma.mapping)
        self.lru.put_page(page)
        return good


def _pages_of(size: int) -> int:
    """Return how many pages a file of so many bytes has."""
    return (size + PAGE_SIZE - 1) >> PAGE_SHIFT
