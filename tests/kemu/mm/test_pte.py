"""Page table entries (mm/pte.py)."""

from __future__ import annotations

from kemu.mm.page import Page
from kemu.mm.pte import PTE_BITS, FilePte, PTE_dirty, PTE_write, PTE_young, SwapPte


def test_the_bits_are_above_those_of_the_page():
    assert PTE_young | PTE_dirty | PTE_write == PTE_BITS
    assert min(PTE_young, PTE_dirty, PTE_write) >= 1 << 32


def test_entries_show_what_they_are():
    assert "0x12" in repr(SwapPte(0x12))
    assert "young|write" in repr(FilePte(Page(1, None), PTE_young | PTE_write))
    assert "read only" in repr(FilePte(Page(1, None), 0))
