"""How much may be promised (mm/overcommit.py)."""

from __future__ import annotations

import pytest

from file_ground import MIB, file_ground
from kemu.kernel.errno import ENOMEM
from kemu.mm.overcommit import OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER


@pytest.fixture
def ground():
    with file_ground(mem=16 * MIB) as g:
        g.process()
        g.oc = g.memory.overcommit
        yield g


def guess(ground):
    """What mode 0 would give to root: more than this is refused."""
    vmstat, pa = ground.vmstat, ground.machine.page_alloc
    return vmstat.nr_file_pages + vmstat.nr_slab_reclaimable + pa.nr_free_pages() - pa.totalreserve_pages


def test_the_guess_refuses_only_what_is_out_of_all_proportion(ground):
    most = guess(ground) - 1
    assert ground.memory.do_brk(ground.task, most + 1) == -ENOMEM
    assert ground.memory.do_brk(ground.task, most) == 0
    assert ground.memory.do_brk(ground.task, most) == 0  # each request alone
    assert ground.oc.vm_committed_space == 2 * most


def test_the_guess_keeps_three_per_cent_for_root(ground):
    most = guess(ground)
    for_others = most - most // 32
    assert ground.oc.may_commit(for_others - 1, admin=False)
    assert not ground.oc.may_commit(for_others + 1, admin=False)
    assert ground.oc.may_commit(for_others + 1, admin=True)


def test_free_memory_is_asked_for_only_if_the_rest_is_not_enough(ground):
    """Page cache and swap alone are enough: what is free below the reserve does not matter."""
    ground.machine.swapfile.nr_swap_pages += 1000
    asked = []
    ground.machine.page_alloc.nr_free_pages = lambda: asked.append(1) or 0
    assert ground.oc.may_commit(999)
    assert not asked
    assert not ground.oc.may_commit(1000 + ground.vmstat.nr_slab_reclaimable)
    assert asked
    del ground.machine.page_alloc.nr_free_pages
    ground.machine.swapfile.nr_swap_pages -= 1000


def test_mode_1_promises_everything(ground):
    ground.kernel.sysctl.write("vm.overcommit_memory", "1")
    assert ground.oc.overcommit_memory == OVERCOMMIT_ALWAYS
    assert ground.memory.do_brk(ground.task, 10**7) == 0
    assert ground.oc.vm_committed_space == 10**7


def test_mode_2_keeps_the_sum_below_the_limit(ground):
    ground.kernel.sysctl.write("vm.overcommit_memory", "2")
    assert ground.oc.overcommit_memory == OVERCOMMIT_NEVER
    limit = ground.machine.page_alloc.total_pages * 50 // 100
    assert ground.oc.commit_limit() == limit
    half = limit // 2
    assert ground.memory.do_brk(ground.task, half) == 0
    assert ground.memory.do_brk(ground.task, half - half // 32 - 2) == 0  # 3 % of the process's size are the others'
    assert ground.memory.do_brk(ground.task, half // 8) == -ENOMEM
    assert ground.oc.vm_committed_space < limit


def test_mode_2_counts_swap_and_the_ratio_of_memory(ground):
    ground.oc.overcommit_memory = OVERCOMMIT_NEVER
    ground.kernel.sysctl.write("vm.overcommit_ratio", "25")
    total = ground.machine.page_alloc.total_pages
    assert ground.oc.commit_limit() == total * 25 // 100
    ground.machine.swapfile.total_swap_pages += 500
    assert ground.oc.commit_limit() == total * 25 // 100 + 500
    ground.machine.swapfile.total_swap_pages -= 500


def test_mode_2_keeps_three_per_cent_for_root(ground):
    ground.oc.overcommit_memory = OVERCOMMIT_NEVER
    limit = ground.oc.commit_limit()
    assert ground.oc.may_commit(limit - 1)
    assert not ground.oc.may_commit(limit - limit // 32, admin=False)
    assert ground.oc.may_commit(limit - limit // 32 - 1, admin=False)


def test_asking_promises_nothing(ground):
    assert ground.oc.may_commit(100)
    assert not ground.oc.may_commit(10**9)
    assert ground.oc.vm_committed_space == 0


def test_a_refused_request_is_not_counted(ground):
    assert ground.memory.do_brk(ground.task, 10**9) == -ENOMEM
    assert ground.oc.vm_committed_space == 0
    assert ground.task.mm.brk == 0


def test_a_process_that_leaves_gives_its_promises_back(ground):
    ground.memory.do_brk(ground.task, 50)
    ground.mmap(ground.file(pages=8), shared=False)
    assert ground.oc.vm_committed_space == 58
    ground.memory.exit_mmap(ground.task)
    assert ground.oc.vm_committed_space == 0


def test_the_last_three_per_cent_of_what_could_be_had_are_roots_too(ground):
    ground.machine.swapfile.nr_swap_pages += 6400
    ground.machine.page_alloc.nr_free_pages = lambda: 0
    could_be_had = ground.vmstat.nr_file_pages + ground.machine.swapfile.nr_swap_pages + ground.vmstat.nr_slab_reclaimable
    assert ground.oc.may_commit(could_be_had - 1, admin=True)
    assert not ground.oc.may_commit(could_be_had - could_be_had // 32, admin=False)
    assert ground.oc.may_commit(could_be_had - could_be_had // 32 - 1, admin=False)
    del ground.machine.page_alloc.nr_free_pages
    ground.machine.swapfile.nr_swap_pages -= 6400


def test_mode_2_leaves_three_per_cent_of_a_process_to_the_others(ground):
    ground.oc.overcommit_memory = OVERCOMMIT_NEVER
    ground.machine.swapfile.total_swap_pages += 10_000
    limit = ground.oc.commit_limit()
    assert ground.memory.do_brk(ground.task, 6400) == 0
    left = limit - 6400 - 6400 // 32
    assert ground.memory.do_brk(ground.task, left) == -ENOMEM
    assert ground.memory.do_brk(ground.task, left - 1) == 0
    ground.machine.swapfile.total_swap_pages -= 10_000
