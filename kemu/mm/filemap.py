"""The page cache: pages of files, found by file and index (2.6.23 mm/filemap.c, mm/truncate.c).

Interface
    * :class:`Filemap`: all of :class:`PageBits` (locks, writeback and dirty bits), and
      ``add_to_page_cache``, ``find_get_page``, ``find_lock_page``, ``find_or_create_page``, ``read_mapping_page``,
      ``remove_from_page_cache``, ``truncate_inode_pages``, ``invalidate_mapping_pages``, ``invalidate_inode_pages2``;
      ``check_mapping``.

Rules of this file
    * The cache holds one reference of each of its pages. A page that leaves its file is unmapped from every process first.
    * truncate_inode_pages() drops dirty pages with what was written to them. invalidate_mapping_pages() drops only what is clean,
      unmapped and idle.
    * Left out: buffer heads; partial truncation of a page is the file system's.
"""

from __future__ import annotations

from collections.abc import Callable

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EIO, ENOENT, ENOMEM
from kemu.lib.radix_tree import TAG_DIRTY, TAG_WRITEBACK, RadixNodes, RadixTree
from kemu.mm.address_space import AddressSpace, File
from kemu.mm.file_unmap import FileRmap
from kemu.mm.gfp import _GFP_HIGHMEM, _GFP_NOWARN, GFP_ATOMIC, GFP_HIGHUSER, GFP_KERNEL, gfp_t
from kemu.mm.lru import Lru
from kemu.mm.page import Page, PG_dirty, PG_locked, PG_private, PG_uptodate, PG_writeback
from kemu.mm.page_bits import PageBits


class Filemap(PageBits):
    """Locks, writeback and the page cache of a machine.

    :param radix_nodes: what the address spaces' trees are made of.
    :ivar file_rmap: takes pages of files out of page tables.
    :ivar forget_file: handed over: who looks on is told that pages of a file are dropped, (file, from which page on).
    """

    def __init__(self, kernel: Kernel, lru: Lru, radix_nodes: RadixNodes) -> None:
        super().__init__(kernel, lru)
        self.radix_nodes = radix_nodes
        self.file_rmap = FileRmap(self.page_alloc, lru, self.set_page_dirty)
        self.forget_file: Callable[[AddressSpace, int], None] | None = None

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
        if page.mapcount:
            raise KernelBug("a page that is mapped leaves its file", state=page)
        self.cancel_dirty_page(page)  # somebody may have made it dirty again
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

    def read_mapping_page(self, mapping: AddressSpace, index: int, file: File | None, *, accessed: bool = True) -> Page | int:
        """Return an uptodate page with one more reference, read if need be, or -errno.

        :param accessed: count a read as a use of the page.
        """
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
                if accessed:
                    self.lru.mark_page_accessed(page)
                return page
            error = -EIO
        self.lru.put_page(page)
        return error

    def truncate_inode_pages(self, mapping: AddressSpace, first: int = 0) -> int:
        """Drop the cached pages from ``first`` on, dirty or not; return -ENOENT if a page is still somebody's private data."""
        left = 0
        if self.forget_file is not None:
            self.forget_file(mapping, first)
        while mapping.page_tree is not None and (batch := mapping.page_tree.gang_lookup(first, 16)):
            for page in batch:
                page.count += 1
                self.lock_page(page)
                self.wait_on_page_writeback(page)
                if page.mapping is mapping:
                    first = page.word_d + 1
                    if page.mapcount:
                        self.file_rmap.unmap_file_page(page)
                    if page.flags & PG_private:
                        self._do_invalidatepage(page)
                    if page.flags & PG_private:
                        left = -ENOENT
                    else:
                        self.remove_from_page_cache(page)
                        self.lru.put_page(page)
                self.unlock_page(page)
                self.lru.put_page(page)
        return left

    def _do_invalidatepage(self, page: Page) -> None:
        """Tell the file system that a page with private data is cut off (do_invalidatepage())."""
        invalidatepage = getattr(page.mapping.a_ops, "invalidatepage", None)  # NULL in C where the file system has none
        if invalidatepage is not None:
            invalidatepage(page, 0)

    def invalidate_inode_pages2(self, mapping: AddressSpace) -> int:
        """Drop every cached page, dirty ones after they were written (invalidate_inode_pages2()): 0, or the first -errno.

        What somebody makes dirty again meanwhile stays: -EIO. What is gone may be other bytes when it is read again.
        """
        result = 0
        first = 0
        while mapping.page_tree is not None and (batch := mapping.page_tree.gang_lookup(first, 16)):
            for page in batch:
                page.count += 1
            for page in batch:
                first = max(first, page.word_d + 1)
                self.lock_page(page)
                error = 0
                if page.mapping is mapping:
                    error = self._invalidate_page2(mapping, page)
                self.unlock_page(page)
                self.lru.put_page(page)
                result = result or error
            self.sched.cond_resched()
        if self.forget_file is not None and not mapping.nrpages:
            self.forget_file(mapping, 0)
        return result

    def _invalidate_page2(self, mapping: AddressSpace, page: Page) -> int:
        """Write a locked page if it is dirty, and drop it (do_launder_page(), invalidate_complete_page2())."""
        self.wait_on_page_writeback(page)
        while page.mapcount:
            self.file_rmap.unmap_file_page(page)
        launder = getattr(mapping.a_ops, "launder_page", None)  # NULL in C where the file system has none
        if page.flags & PG_dirty and launder is not None:
            error: int = launder(page)
            if error:
                return error
        if page.flags & PG_private:
            release = getattr(mapping.a_ops, "releasepage", None)  # NULL in C where the file system has none
            if release is None or not release(page, GFP_KERNEL):
                return -EIO
        if page.flags & PG_dirty:
            return -EIO
        self.remove_from_page_cache(page)
        self.lru.put_page(page)
        return 0

    def invalidate_mapping_pages(self, mapping: AddressSpace) -> int:
        """Drop the cached pages that are clean, idle and mapped by nobody; return how many (invalidate_mapping_pages())."""
        dropped = 0
        first = 0
        while mapping.page_tree is not None and (batch := mapping.page_tree.gang_lookup(first, 16)):
            for page in batch:
                first = page.word_d + 1
                busy = page.flags & (PG_locked | PG_dirty | PG_writeback | PG_private) or page.mapcount
                if busy or page.count != 1:
                    continue
                page.count += 1
                page.flags |= PG_locked
                self.remove_from_page_cache(page)
                self.lru.put_page(page)
                self.unlock_page(page)
                self.lru.put_page(page)
                dropped += 1
            self.sched.cond_resched()
        return dropped

    # -- invariants ------------------------------------------------------------------------------------------------------------

    def check_mapping(self, mapping: AddressSpace) -> tuple[int, int]:
        """Assert that the cache of a file agrees with itself; return how many of its pages are dirty and how many are mapped."""
        tree = mapping.page_tree
        if tree is None:
            return 0, 0
        tree.check()
        if len(tree) != mapping.nrpages:
            raise KernelBug(f"{len(tree)} pages are cached, {mapping.nrpages} are counted", state=mapping)
        dirty = mapped = 0
        for index, page in tree.items():
            if page.mapping is not mapping or page.word_d != index or page.count < 1 + page.mapcount:
                raise KernelBug("a cached page does not know its file or its place, or has too few references", state=page)
            if bool(page.flags & PG_writeback) != tree.tag_get(index, TAG_WRITEBACK):
                raise KernelBug("a cached page's writeback tag is wrong", state=page)
            if page.flags & PG_dirty and not tree.tag_get(index, TAG_DIRTY):
                raise KernelBug("a dirty page has no dirty tag: nobody would find it", state=page)
            dirty += bool(page.flags & PG_dirty)
            mapped += bool(page.mapcount)
        return dirty, mapped
