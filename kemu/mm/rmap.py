"""From a page to the page table entry that maps it (2.6.23 mm/rmap.c), and what such an entry remembers.

Interface
    * :class:`MmStruct`, one address space of a process; its page table's entries are those of pte.py.
    * :class:`AnonVma`, what ``page.mapping`` of an anonymous page points to.
    * ``page_add_anon_rmap``, ``page_referenced``; ``page_mapping_inuse``; try_to_unmap() is in shrink_list.py.

Rules of this file
    * An anonymous page is mapped by at most one entry: there is no fork. So the entry's bits live in ``page.flags``, above those of
      the kernel: PTE_young, PTE_dirty, PTE_write; they are clear whenever ``mapcount`` is 0.
    * ``page.mapping`` stays the AnonVma while the page is in the swap cache, and word D stays the virtual page number. Who takes
      that pointer for an address space has an oops (patches 26 and 28).
    * Left out: nonlinear mappings, page tables as memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn

from kemu.errors import KernelBug
from kemu.mm.file_rmap import page_referenced_file
from kemu.mm.page import Page, PG_referenced, PG_swapcache
from kemu.mm.pte import PTE_BITS, FilePte, PTE_dirty, PTE_write, PTE_young, SwapPte

if TYPE_CHECKING:
    from kemu.kernel.task import Task
    from kemu.mm.file_rmap import Vma

__all__ = [
    "PTE_BITS",
    "AnonVma",
    "FilePte",
    "MmStruct",
    "PTE_dirty",
    "PTE_write",
    "PTE_young",
    "SwapPte",
    "page_add_anon_rmap",
    "page_mapping_inuse",
    "page_referenced",
]


class MmStruct:
    """``struct mm_struct``: the memory of one process.

    :ivar ptes: virtual page number -> the Page, or a SwapPte, or a FilePte; absent: never touched.
    :ivar brk: pages of the heap, from virtual page 0 on; ``heap_promised``: those of them that overcommit.py has promised.
    :ivar vmas: the mapped files, by address; ``map_pages``: how many pages they are in all.
    :ivar mm_id: its number, for the shadow.
    """

    __slots__ = (
        "anon_rss",
        "anon_vma",
        "brk",
        "file_rss",
        "heap_promised",
        "maj_flt",
        "map_pages",
        "min_flt",
        "mm_id",
        "owner",
        "ptes",
        "vmas",
    )

    def __init__(self, mm_id: int, owner: Task) -> None:
        self.mm_id = mm_id
        self.owner = owner
        self.ptes: dict[int, Page | SwapPte | FilePte] = {}
        self.brk = 0
        self.heap_promised = 0
        self.vmas: list[Vma] = []
        self.map_pages = 0
        self.anon_rss = 0
        self.file_rss = 0
        self.min_flt = 0
        self.maj_flt = 0
        self.anon_vma = AnonVma(self)

    @property
    def total_vm(self) -> int:
        """Pages of all areas; what is set, without the mapped files, is the heap."""
        return self.brk + self.map_pages

    @total_vm.setter
    def total_vm(self, pages: int) -> None:
        self.brk = pages - self.map_pages

    def __repr__(self) -> str:
        """Name the process."""
        return f"<MmStruct {self.mm_id} of {self.owner.comm}: total_vm {self.total_vm}, rss {self.anon_rss + self.file_rss}>"


class AnonVma:
    """``struct anon_vma``: tells whose page it is. In C a pointer to it has bit 0 set; here ``is_anon`` is that bit."""

    __slots__ = ("mm",)

    is_anon: ClassVar[bool] = True

    def __init__(self, mm: MmStruct) -> None:
        self.mm = mm

    def __repr__(self) -> str:
        """Name the process."""
        return f"<AnonVma of {self.mm!r}>"

    def _oops(self, field: str) -> NoReturn:
        raise KernelBug(f"unable to handle kernel paging request: mapping->{field} of an anonymous page", state=self)

    @property
    def host(self) -> NoReturn:
        """Oops: this is no address space."""
        self._oops("host")

    @property
    def a_ops(self) -> NoReturn:
        """Oops: this is no address space."""
        self._oops("a_ops")

    @property
    def backing_dev_info(self) -> NoReturn:
        """Oops: this is no address space."""
        self._oops("backing_dev_info")


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
