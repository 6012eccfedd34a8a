"""The areas of a machine: slots, entries, and the refusal of what never was."""

import pytest

from kemu import Machine, MachineConfig
from kemu.errors import KernelBug
from kemu.mm.page import Page
from kemu.mm.swap_info import SwapInfo
from kemu.mm.swapops import swp_entry
from swap_ground import swap_ground


def test_without_areas_there_is_no_slot():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        assert machine.swapfile.get_swap_page() == 0
        assert machine.swapfile.nr_swap_pages == 0
        machine.swapfile.check()


def test_an_entry_of_an_area_that_never_was_is_a_bug():
    with Machine(MachineConfig(mem=8 << 20)) as machine, pytest.raises(KernelBug):
        machine.swapfile.swap_free(swp_entry(3, 7))


def test_a_page_outside_the_swap_cache_has_no_area():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        page = machine.page_alloc.alloc_pages(0xD0, 0)
        assert isinstance(page, Page)

        with pytest.raises(KernelBug):
            machine.swapfile.page_swap_info(page)
        machine.page_alloc.free_pages(page, 0)


def test_extents_that_follow_each_other_become_one():
    area = SwapInfo(0)

    assert area.add_swap_extent(0, 8, 100) == 1
    assert area.add_swap_extent(8, 8, 108) == 0
    assert area.add_swap_extent(16, 8, 500) == 1
    assert [area.map_swap_page(slot) for slot in (0, 15, 16, 23)] == [100, 115, 500, 507]


def test_pages_of_files_are_themselves_to_a_file_system():
    with Machine(MachineConfig(mem=8 << 20)) as machine:
        page = machine.page_alloc.alloc_pages(0xD0, 0)
        page.mapping, page.index = "the file's", 5

        assert machine.swapfile.page_file_mapping(page) == "the file's"
        assert machine.swapfile.page_file_index(page) == 5
        assert machine.swapfile.page_offset(page) == 5 * 4096
        page.mapping = None
        machine.page_alloc.free_pages(page, 0)


@pytest.mark.parametrize(
    ("text", "window"),
    [("3", (8, 16)), ("0", (11, 12)), ("1", (10, 12)), ("2", (8, 12)), ("31", (1, 41)), ("-1", (1, 41)), ("35", (8, 16))],
)
def test_the_window_of_swap_in_is_vm_page_cluster(text, window):
    with swap_ground() as machine:
        file, _ = machine.disk_area(64)
        assert machine.swapfile.swapon(file) == 0
        for _ in range(40):
            entry = machine.swapfile.get_swap_page()
        assert machine.kernel.sysctl.write("vm.page-cluster", text) == 0
        assert machine.kernel.sysctl.read("vm.page-cluster") == f"{text}\n"
        found = machine.swapfile.valid_swaphandles(entry - 29)
        assert (found.start, found.stop) == window
        for slot in range(40):
            machine.swapfile.swap_free(entry - slot)
