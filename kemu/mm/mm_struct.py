"""The memory of a process as data (2.6.23 linux/mm_types.h, linux/rmap.h).

Interface
    * :class:`MmStruct`, one address space of a process; its page table's entries are those of pte.py.
    * :class:`Vma`, a part of a process's addresses that maps a part of a file.
    * :class:`AnonVma`, what ``page.mapping`` of an anonymous page points to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn

from kemu.errors import KernelBug

if TYPE_CHECKING:
    from kemu.kernel.task import Task
    from kemu.mm.address_space import AddressSpace, File
    from kemu.mm.page import Page
    from kemu.mm.pte import FilePte, SwapPte


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
