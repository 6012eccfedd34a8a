"""Counters of a machine's memory."""

from __future__ import annotations

from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.vmstat import VmStat
from mm_ground import ground


def test_all_counters_begin_at_zero():
    counters = VmStat().as_dict()
    assert counters and not any(counters.values())


def test_the_dictionary_says_what_the_counters_say():
    vmstat = VmStat()
    vmstat.pswpout += 3
    assert {name: value for name, value in vmstat.as_dict().items() if value} == {"pswpout": 3}


def test_the_dictionary_is_a_snapshot():
    vmstat = VmStat()
    before = vmstat.as_dict()
    vmstat.pgfault += 1
    assert before["pgfault"] == 0


def test_two_machines_are_two_different_stats_even_if_all_is_equal():
    assert VmStat() != VmStat()


def test_a_block_counts_its_pages_when_it_goes_and_when_it_comes_back():
    with ground() as machine:
        vmstat = machine.pa.vmstat
        allocated, freed = vmstat.pgalloc, vmstat.pgfree
        page = machine.pa.alloc_pages(GFP_KERNEL, 2)
        assert (vmstat.pgalloc, vmstat.pgfree) == (allocated + 4, freed)
        machine.pa.free_pages(page, 2)
        assert (vmstat.pgalloc, vmstat.pgfree) == (allocated + 4, freed + 4)


def test_a_refused_request_counts_as_failed():
    with ground() as machine:
        before = machine.pa.vmstat.alloc_failed
        machine.take()
        assert machine.pa.vmstat.alloc_failed == before + 1
