"""Taking a file's page out of page tables (2.6.23 mm/rmap.c: try_to_unmap_file(), page_remove_rmap(); mm/memory.c: zapping).

Interface: :class:`FileRmap`: ``try_to_unmap_file(page)``, ``unmap_file_page(page)``, ``zap_file_pte(mm, vpn, pte)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.file_rmap import file_ptes
from kemu.mm.pte import FilePte, PTE_dirty, PTE_young

if TYPE_CHECKING:
    from kemu.mm.lru import Lru
    from kemu.mm.mm_struct import MmStruct
    from kemu.mm.page import Page
    from kemu.mm.page_alloc import PageAllocator


class FileRmap:
    """Taking pages of files out of page tables.

    :param set_page_dirty: what an entry knows of a store goes there.
    """

    def __init__(self, page_alloc: PageAllocator, lru: Lru, set_page_dirty: Callable[[Page], object]) -> None:
        self.vmstat = page_alloc.vmstat
        self.lru = lru
        self.put_page = page_alloc.put_page
        self.set_page_dirty = set_page_dirty

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
            self.lru.mark_page_accessed(pte.page)
        self._unmap(mm, vpn, pte)

    def _unmap(self, mm: MmStruct, vpn: int, pte: FilePte) -> None:
        """Clear one entry; what it knows of a store goes to the page (page_remove_rmap())."""
        page = pte.page
        del mm.ptes[vpn]
        if pte.flags & PTE_dirty:
            self.set_page_dirty(page)
        mm.file_rss -= 1
        if page.mapcount < 1:
            raise KernelBug("page_remove_rmap() of a page that is not mapped", state=page)
        page.mapcount -= 1
        if not page.mapcount:
            self.vmstat.nr_file_mapped -= 1
        self.put_page(page)
