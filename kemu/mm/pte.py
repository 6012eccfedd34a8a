"""Page table entries: what stands at a virtual page of a process (2.6.23 include/asm-x86_64/pgtable.h).

Interface: ``PTE_young``, ``PTE_dirty``, ``PTE_write``; :class:`SwapPte`, :class:`FilePte`. An anonymous page stands there as itself
(rmap.py says where its bits are).
"""

from __future__ import annotations

from typing import Final

from kemu.mm.page import Page
from kemu.mm.swapops import swp_entry_t

PTE_young: Final = 1 << 32
PTE_dirty: Final = 1 << 33
PTE_write: Final = 1 << 34
PTE_BITS: Final = PTE_young | PTE_dirty | PTE_write


class SwapPte:
    """A page table entry that is not present: the page is in slot ``entry``."""

    __slots__ = ("entry",)

    def __init__(self, entry: swp_entry_t) -> None:
        self.entry = entry

    def __repr__(self) -> str:
        """Show the entry as it would stand in the table."""
        return f"<SwapPte {self.entry:#x}>"


class FilePte:
    """A page table entry that maps a page of a file.

    :ivar flags: PTE_young, PTE_dirty, PTE_write.
    """

    __slots__ = ("flags", "page")

    def __init__(self, page: Page, flags: int) -> None:
        self.page = page
        self.flags = flags

    def __repr__(self) -> str:
        """Show the entry."""
        names = [name for bit, name in ((PTE_young, "young"), (PTE_dirty, "dirty"), (PTE_write, "write")) if self.flags & bit]
        return f"<FilePte {'|'.join(names) or 'read only'} of {self.page!r}>"
