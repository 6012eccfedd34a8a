"""What SLUB says of an object: who, where, which bytes."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.slub_report import bad_free, is_object
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground(slub_debug="ZPU") as machine:
        yield machine


def report(sg, size=64):
    """Return the INFO lines of an object that was taken, freed, and taken again."""
    address = sg.slub.kmalloc(size, GFP_KERNEL)
    sg.slub.kmalloc(size, GFP_KERNEL)
    sg.slub.kfree(address)
    sg.kernel.sched.msleep(20)
    assert sg.slub.kmalloc(size, GFP_KERNEL) == address
    return address, sg.slub.debug.trailer(sg.cache(size), sg.slub.virt_to_page(address), address)


def test_it_names_who_took_and_who_freed_an_object(sg):
    _, lines = report(sg)
    task = sg.task
    age = sg.kernel.sched.jiffies
    assert lines[0] == f"INFO: Allocated in {task.comm} age=0 cpu=0 pid={task.pid}"
    assert lines[1] == f"INFO: Freed in {task.comm} age={age} cpu=0 pid={task.pid}"


def test_it_names_the_slab_and_where_in_it_the_object_is(sg):
    address, lines = report(sg)
    page = sg.slub.virt_to_page(address)
    assert lines[2].startswith(f"INFO: Slab {page.address:#x} used=2 fp={page.word_d[-1]:#x} flags=")
    assert lines[3].startswith(f"INFO: Object {address:#x} @offset={address - page.address} fp=")


def test_it_shows_object_red_zone_and_padding_in_rows_of_16(sg):
    address, lines = report(sg)
    rows = lines[4:]
    assert rows[0] == f"  Object {address:#x}:  {'6b ' * 15}6b {'k' * 16}"
    assert rows[3].split()[-2] == "a5"
    assert rows[4] == f" Redzone {address + 64:#x}:  {'cc ' * 8:<47} ........"
    assert rows[5].startswith(f" Padding {address + sg.cache(64).layout.pad:#x}:  5a 5a")


def test_of_a_large_object_it_shows_the_first_128_bytes(sg):
    _, lines = report(sg, 512)
    assert sum("6b 6b" in line for line in lines) == 8


def test_a_report_is_framed_in_the_log_and_comes_back_as_the_error(sg):
    address, _ = report(sg)
    page = sg.slub.virt_to_page(address)
    error = sg.slub.debug.slab_err(sg.cache(64), page, "inuse 99 > max 31")
    assert isinstance(error, KernelBug) and str(error).startswith("BUG kmalloc-64: inuse 99 > max 31\nINFO: Slab")
    log = [line.split("] ", 1)[-1] for line in sg.kernel.printk.lines()]
    place = log.index("BUG kmalloc-64: inuse 99 > max 31")
    assert log[place - 1] == "=" * 77 and log[place + 1] == "-" * 77


def test_an_object_begins_at_a_multiple_of_the_size_within_the_slab(sg):
    address = sg.slub.kmalloc(64, GFP_KERNEL)
    cache, page = sg.cache(64), sg.slub.virt_to_page(address)
    assert is_object(cache, page, page.address) and is_object(cache, page, page.address + cache.size)
    assert not is_object(cache, page, page.address + 1)
    assert not is_object(cache, page, page.address - cache.size)
    assert not is_object(cache, page, page.address + cache.objects * cache.size)


def test_null_is_no_object(sg):
    with pytest.raises(KernelBug, match="BUG kmalloc-64: None is no address of memory"):
        bad_free(sg.cache(64), None, None, [])
