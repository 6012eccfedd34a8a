"""From a page of a file to all the page table entries that map it (2.6.23 mm/rmap.c, the file half).

Interface
    * ``file_ptes(page)``, ``page_add_file_rmap``, ``page_referenced_file``, ``page_mkclean_file``.
    * file_unmap.py takes entries away.

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

from kemu.mm.page import Page
from kemu.mm.pte import FilePte, PTE_dirty, PTE_write, PTE_young

if TYPE_CHECKING:
    from kemu.mm.mm_struct import MmStruct, Vma
    from kemu.mm.vmstat import VmStat


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


def page_add_file_rmap(page: Page, mm: MmStruct, vpn: int, flags: int, vmstat: VmStat) -> FilePte:
    """Map a page of a file; the caller's reference becomes the entry's (page_add_file_rmap())."""
    if not page.mapcount:
        vmstat.nr_file_mapped += 1
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
