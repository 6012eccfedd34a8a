"""What a free page must look like."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm import gfp as g
from kemu.mm import page as p
from kemu.mm.page_check import FREE_FORBIDS, bad_page, check_pages
from mm_ground import MIB, ground


@pytest.fixture
def machine():
    with ground(128 * MIB) as machine:
        yield machine


def freed(machine, order):
    """A page on a per-CPU list, or one in a free block."""
    page = machine.pa.alloc_pages(g.GFP_KERNEL, order)
    machine.pa.free_pages(page, order)
    return page


def test_a_sound_machine_passes(machine):
    freed(machine, 0)
    freed(machine, 3)
    check_pages(machine.pa)


@pytest.mark.parametrize("order", [0, 1], ids=["on a per-CPU list", "in a block"])
@pytest.mark.parametrize(
    ("slot", "value"),
    [("count", 1), ("mapcount", 1), ("mapping", object()), ("contents", b""), *(("flags", 1 << bit) for bit in (0, 5, 7, 12, 15))],
)
def test_a_free_page_that_is_used_is_found(machine, order, slot, value):
    page = freed(machine, order)
    setattr(page, slot, value)
    with pytest.raises(KernelBug, match="used while free"):
        check_pages(machine.pa)


def test_flags_that_any_page_may_keep_are_no_trace_of_use(machine):
    freed(machine, 0).flags = p.PG_referenced | p.PG_uptodate | p.PG_dirty | p.PG_error
    check_pages(machine.pa)
    assert not FREE_FORBIDS & (p.PG_referenced | p.PG_uptodate | p.PG_dirty | p.PG_error)


def test_the_report_names_the_page(machine):
    page = machine.pa.alloc_page(g.GFP_KERNEL)
    page.flags = p.PG_locked | p.PG_dirty
    with pytest.raises(KernelBug, match=rf"pfn {page.pfn:#x} is odd: count 1, mapcount 0, flags locked\|dirty, mapping NoneType"):
        bad_page(page, "is odd")


def test_after_the_report_no_count_is_negative(machine):
    page = freed(machine, 0)
    page.count = -3
    with pytest.raises(KernelBug, match="count -3"):
        bad_page(page, "is odd")
    assert page.count == 0
