"""From an anonymous page to the page table entry that maps it (2.6.23 mm/rmap.c), and what such an entry remembers.

Interface: ``page_add_anon_rmap``, ``page_referenced``; ``page_mapping_inuse``. try_to_unmap() is in shrink_list.py.

Rules of this file
    * An anonymous page is mapped by at most one entry: there is no fork. So the entry's bits live in ``page.flags``, above those of
      the kernel: PTE_young, PTE_dirty, PTE_write; they are clear whenever ``mapcount`` is 0.
    * ``page.mapping`` stays the AnonVma while the page is in the swap cache, and word D stays the virtual page number. Who takes
      that pointer for an address space has an oops (patches 26 and 28).
    * Left out: nonlinear mappings, page tables as memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.file_rmap import page_referenced_file
from kemu.mm.page import Page, PG_referenced, PG_swapcache
from kemu.mm.pte import PTE_young

if TYPE_CHECKING:
    from kemu.mm.mm_struct import MmStruct


def page_add_anon_rmap(page: Page, mm: MmStruct, vpn: int) -> None:
    """Say that ``mm`` maps the page at ``vpn``."""
    if page.mapcount:
        raise KernelBug("an anonymous page is mapped twice", state=page)
    page.mapping = mm.anon_vma
    page.word_d = vpn
    page.mapcount = 1


def page_referenced(page: Page) -> bool:
    """Tell whether the page was used since somebody last asked, and forget it (page_referenced())."""
    flags = page.flags
    page.flags = flags & ~(PG_referenced | PTE_young)
    if page.mapcount and not page.mapping.is_anon:
        return page_referenced_file(page) or bool(flags & PG_referenced)
    return bool(flags & (PG_referenced | PTE_young))


def page_mapping_inuse(page: Page) -> bool:
    """Tell whether it would hurt a process if the page went (page_mapping_inuse())."""
    if page.mapcount or page.flags & PG_swapcache:
        return True
    mapping = page.mapping
    return mapping is not None and not mapping.is_anon and bool(mapping.i_mmap)
