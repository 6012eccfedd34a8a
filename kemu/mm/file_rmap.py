"""From a page of a file to all the page table entries that map it (2.6.23 mm/rmap.c, the file half; mm/memory.c: zapping).

Interface
    * :class:`Vma`, a part of a process's addresses that maps a part of a file.
    * ``page_add_file_rmap``, ``page_referenced_file``, ``page_mkclean_file``.
    * :class:`FileRmap`: ``try_to_unmap_file(page)``, ``unmap_file_page(page)``, ``zap_file_pte(mm, vpn)``.

Rules of this file
    * ``mapping.i_mmap`` lists the areas that map a file; where a page stands in one follows from its index. An entry counts only
      if it still leads to this page.
    * ``mapcount`` is the number of entries. Each holds one reference of the page.
    * An entry that may write has PTE_write only while the page is dirty: writeback takes the bit away (page_mkclean()), so that the
      next store faults and the page is dirty again before it is changed. That is how dirty pages of mapped files are counted.
    * Left out: a tree of areas by offset (i_mmap is walked), VM_NONLINEAR, VM_LOCKED.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.page import Page
from kemu.mm.pte import FilePte, PTE_dirty, PTE_write, PTE_young

if TYPE_CHECKING:
    from kemu.mm.address_space import AddressSpace, File
    from kemu.mm.filemap import Filemap
    from kemu.mm.rmap import MmStruct


class Vma:
    """``struct vm_area_struct``: ``pages`` pages from virtual page ``start`` on map a file from its page ``pgoff`` on.

    :ivar shared: VM_SHARED: stores change the file. Otherwise a store makes a copy, which is an anonymous page.
    """

    __slots__ = ("file", "mapping", "mm", "pages", "pgoff", "shared", "start")

    def __init__(self, mm: MmStruct, start: int, pages: int, file: File, pgoff: int, shared: bool) -> None:
        self.mm = mm
        self.start = start
        self.pages = pages
        self.file = file
        self.mapping: AddressSpace = file.f_mapping
        self.pgoff = pgoff
        self.shared = shared

    @property
    def end(self) -> int:
        """The first virtual page beyond it."""
        return self.start + self.pages

    def __lt__(self, other: Vma) -> bool:
        """Order areas by address."""
        return self.start < other.start

    def index_of(self, vpn: int) -> int:
        """Return which page of the file stands there (linear_page_index())."""
        return vpn - self.start + self.pgoff

    def __repr__(self) -> str:
        """Show the area as a line of /proc/<pid>/maps would."""
        kind = "rw-s" if self.shared else "rw-p"
        return f"<Vma {self.start:#x}-{self.end:#x} {kind} {self.pgoff:#x} of inode {self.file.inode.ino}>"


def file_ptes(page: Page) -> Iterator[tuple[Vma, int, FilePte]]:
    """Give every entry that maps a page: its area, its virtual page, and itself."""
    index = page.word_d
    for vma in page.mapping.i_mmap:
        place = index - vma.pgoff
        if 0 <= place < vma.pages:
            vpn = vma.start + place
            pte = vma.mm.ptes.get(vpn)
            if pte.__class__ is FilePte and pte.page is page:
                yield vma, vpn, pte


def page_add_file_rmap(page: Page, mm: MmStruct, vpn: int, flags: int, filemap: Filemap) -> FilePte:
    """Map a page of a file; the caller's reference becomes the entry's (page_add_file_rmap())."""
    if not page.mapcount:
        filemap.vmstat.nr_file_mapped += 1
    page.mapcount += 1
    mm.file_rss += 1
    pte = FilePte(page, flags)
    mm.ptes[vpn] = pte
    return pte


def page_referenced_file(page: Page) -> bool:
    """Tell whether any process used the page since somebody last asked, and forget it (page_referenced_file())."""
    referenced = False
    for _, _, pte in file_ptes(page):
        if pte.flags & PTE_young:
            pte.flags &= ~PTE_young
            referenced = True
    return referenced


def page_mkclean_file(page: Page) -> bool:
    """Take every right to write the page without a fault; tell whether there was one (page_mkclean_file())."""
    cleaned = False
    for vma, _, pte in file_ptes(page):
        if vma.shared and pte.flags & (PTE_dirty | PTE_write):
            pte.flags &= ~(PTE_dirty | PTE_write)
            cleaned = True
    return cleaned


class FileRmap:
    """Taking pages of files out of page tables."""

    def __init__(self, filemap: Filemap) -> None:
        self.filemap = filemap
        self.vmstat = filemap.vmstat
        self.put_page = filemap.page_alloc.put_page

    def try_to_unmap_file(self, page: Page) -> bool:
        """Unmap a locked page everywhere; False at the first entry that was used just now (try_to_unmap_file())."""
        for vma, vpn, pte in list(file_ptes(page)):
            if pte.flags & PTE_young:
                pte.flags &= ~PTE_young
                return False
            self._unmap(vma.mm, vpn, pte)
        return not page.mapcount

    def unmap_file_page(self, page: Page) -> None:
        """Unmap a page that leaves its file, used or not (unmap_mapping_range() of one page); copies of it stay."""
        for vma, vpn, pte in list(file_ptes(page)):
            self._unmap(vma.mm, vpn, pte)

    def zap_file_pte(self, mm: MmStruct, vpn: int, pte: FilePte) -> None:
        """Unmap a page of a process that gives the area up; its use is not forgotten (zap_pte_range())."""
        if pte.flags & PTE_young:
            self.filemap.lru.mark_page_accessed(pte.page)
        self._unmap(mm, vpn, pte)

    def _unmap(self, mm: MmStruct, vpn: int, pte: FilePte) -> None:
        """Clear one entry; what it knows of a store goes to the page (page_remove_rmap())."""
        page = pte.page
        del mm.ptes[vpn]
        if pte.flags & PTE_dirty:
            self.filemap.set_page_dirty(page)
        mm.file_rss -= 1
        if page.mapcount < 1:
            raise KernelBug("page_remove_rmap() of a page that is not mapped", state=page)
        page.mapcount -= 1
        if not page.mapcount:
            self.vmstat.nr_file_mapped -= 1
        self.put_page(page)
