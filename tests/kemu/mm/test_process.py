"""Processes (mm/process.py), and a whole machine that swaps."""

from __future__ import annotations

import pytest

from file_ground import file_ground
from kemu.errors import ConfigError
from kemu.kernel.errno import EINVAL, EIO, ENOMEM
from kemu.kernel.task import PF_EXITING
from swap_ground import MIB, Script, Touch, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground() as g:
        yield g


def run(ground, *steps, **kwargs):
    task = ground.processes.spawn("p", Script(*steps), **kwargs)
    ground.run(task, for_ns=10**10)
    return task


def test_a_program_ends_with_0_and_leaves_nothing(ground):
    task = run(ground, ("grow", 4), ("write", 0, page_bytes(0)), ("read", 0), ("read", 3))
    assert task.exit_code == 0
    assert task.mm is None and task.flags & PF_EXITING
    assert ground.vmstat.nr_anon_pages == 0
    assert task.utime_ns > 0
    ground.check()


def test_sleep_takes_its_time(ground):
    start = ground.world.now
    run(ground, ("sleep", 25))
    assert ground.world.now - start >= 24 * 4_000_000


def test_who_touches_what_it_does_not_have_dies_of_sigsegv(ground):
    assert run(ground, ("write", 0, b"")).exit_code == 128 + 11
    assert run(ground, ("read", 0)).exit_code == 128 + 11


def test_a_refused_brk_is_exit_12(ground):
    assert run(ground, ("grow", 10**7), uid=1).exit_code == 12


def test_an_unknown_step_names_those_that_are_known(ground):
    with pytest.raises(ConfigError, match="write, read, sleep, grow"):
        run(ground, ("dance", 1))


def test_a_killed_process_dies_in_its_sleep_and_at_its_next_step(ground):
    task = ground.processes.spawn("p", Script(("grow", 2), ("write", 0, page_bytes(0)), ("sleep", None)))
    ground.world.run(for_ns=10**7)
    assert ground.processes.running == [task]
    ground.processes.kill(task)
    ground.run(task)
    assert task.exit_code == 137
    assert ground.processes.running == []
    ground.check()


def test_a_process_without_memory_for_its_page_is_killed(ground, monkeypatch):
    task = ground.processes.spawn("p", Script(("grow", 2), ("write", 0, page_bytes(0))))
    monkeypatch.setattr(ground.memory, "write_page", lambda *_: 1)
    ground.run(task)
    assert task.exit_code == 137
    assert any("VM: killing process p" in text for _, _, text in ground.kernel.printk.buffer)


def test_a_page_that_cannot_be_read_is_sigbus(ground, monkeypatch):
    task = ground.processes.spawn("p", Script(("grow", 2), ("write", 0, page_bytes(0))))
    monkeypatch.setattr(ground.memory, "write_page", lambda *_: 2)
    ground.run(task)
    assert task.exit_code == 135


# -- the whole


@pytest.mark.parametrize("vehicle_cpus", [1, 2])
def test_twice_the_memory_swaps_to_a_ram_disk_and_every_page_verifies(vehicle_cpus):
    with swap_ground(mem=4 * MIB, ncpus=vehicle_cpus) as ground:
        before = ground.pa.allocated_pages()
        area, disk = ground.disk_area(3000)
        assert ground.swapfile.swapon(area) == 0
        tasks = [ground.processes.spawn(f"hog{i}", Touch(1024, rounds=1, seed=i, salt=i), uid=1) for i in range(2)]
        ground.world.run(until=lambda: ground.vmstat.pswpout > 1500)
        ground.check()
        compared, lost = ground.memory.audit(lambda si, offset: disk.blocks.get(si.map_swap_page(offset)))
        assert compared > 1500 and not lost
        ground.run(*tasks)
        assert [task.exit_code for task in tasks] == [0, 0]
        assert ground.vmstat.lost_pages == 0 and ground.judge.outcome is None
        assert ground.shadow.verified > 500
        assert ground.vmstat.kswapd_wakes > 0
        ground.check()
        assert ground.swapfile.swapoff(area) == 0
        assert ground.swapfile.nr_swap_pages == 0 == ground.swapfile.total_swap_pages
        disk.remove()
        ground.nodes.drain()
        assert ground.pa.allocated_pages() - before <= 4
        ground.check()


def test_swapoff_under_load_brings_all_pages_back_and_the_load_goes_on():
    with swap_ground(mem=8 * MIB) as ground:
        first, _ = ground.disk_area(3000)
        second, _ = ground.disk_area(6000)
        ground.swapfile.swapon(first, priority=5)
        ground.swapfile.swapon(second, priority=1)
        task = ground.processes.spawn("hog", Touch(2600, rounds=3), uid=1)
        ground.world.run(until=lambda: ground.vmstat.pswpout > 800)
        assert ground.swapfile.swapoff(first) == 0
        assert ground.swapfile.areas[0] is None
        ground.run(task)
        assert task.exit_code == 0 and ground.judge.outcome is None
        ground.check()


def test_the_same_seed_gives_the_same_history():
    digests = []
    for _ in range(2):
        with swap_ground(mem=4 * MIB, seed=3) as ground:
            area, _ = ground.disk_area(3000)
            ground.swapfile.swapon(area)
            ground.run(ground.processes.spawn("hog", Touch(1500), uid=1))
            digests.append(ground.kernel.history.hexdigest())
    assert digests[0] == digests[1]


# -- files


@pytest.fixture
def files():
    with file_ground() as g:
        yield g


def run_on(files, *steps):
    task = files.machine.processes.spawn("p", Script(*steps))
    files.run(task, for_ns=100 * 10**9)
    return task.exit_code


def test_a_program_maps_writes_reads_and_syncs_a_file(files):
    file = files.file(pages=8)
    steps = [
        ("mmap", file, 100, 8, 0),
        ("write", 103, page_bytes(3, 1)),
        ("file_write", file, 4096, page_bytes(1, 1)),
        ("read", 101),
        ("file_read", file, 3 * 4096, 4096),
        ("msync", 100, 8),
        ("file_write", file, 0, page_bytes(0, 1)),
        ("fsync", file),
        ("munmap", 100, 8),
    ]
    assert run_on(files, *steps) == 0
    assert [files.on_disk(file, i) for i in (0, 1, 3)] == [page_bytes(0, 1), page_bytes(1, 1), page_bytes(3, 1)]
    assert files.audit() == (3, 0)
    files.check()


def test_a_private_mapping_is_a_step_of_its_own(files):
    file = files.file(pages=2)
    assert run_on(files, ("mmap_private", file, 100, 2, 0), ("write", 100, page_bytes(0, 1)), ("fsync", file)) == 0
    assert files.on_disk(file, 0) != page_bytes(0, 1)


def test_what_was_unmapped_cannot_be_touched(files):
    file = files.file(pages=2)
    assert run_on(files, ("mmap", file, 100, 2, 0), ("munmap", 100, 1), ("read", 100)) == 128 + 11
    assert run_on(files, ("mmap", file, 100, 4, 0), ("read", 102)) == 128 + 7  # behind the end: SIGBUS


@pytest.mark.parametrize(
    ("steps", "errno"),
    [
        ([("mmap", 0, 100, 0, 0)], EINVAL),
        ([("grow", 200), ("mmap", 0, 100, 4, 0)], ENOMEM),
        ([("munmap", 100, 0)], EINVAL),
        ([("msync", 100, 1)], ENOMEM),
        ([("file_read", 0, 0, 4096)], EIO),
        ([("file_write", 0, 5, b"x")], EIO),
    ],
)
def test_a_system_call_that_fails_ends_the_program_with_its_errno(files, steps, errno):
    file = files.file(pages=4)
    files.disk.fail(0, 10**6)
    of_file = [(step[0], file, *step[2:]) if step[0] in ("mmap", "file_read", "file_write") else step for step in steps]
    assert run_on(files, *of_file) == errno


# ---- the freezer


def test_a_frozen_process_stands_between_two_steps_until_it_is_thawed(ground):
    program = Script(("grow", 9), *(("write", vpn, page_bytes(vpn)) for vpn in range(9)))
    task = ground.processes.spawn("p", program)
    ground.processes.freeze()
    ground.world.run(for_ns=10**9)
    assert ground.processes.is_frozen(task) and ground.processes.at_rest(task)
    assert program.cursor == 0
    ground.processes.thaw()
    ground.run(task)
    assert task.exit_code == 0
    assert not ground.processes.is_frozen(task)
    ground.check()


def test_the_step_that_is_under_way_is_ended_first(ground):
    program = Script(("grow", 2), ("sleep", 25), ("write", 1, page_bytes(1)))
    task = ground.processes.spawn("p", program)
    ground.world.run(for_ns=10**7)
    ground.processes.freeze()
    ground.world.run(for_ns=10**7)
    assert not ground.processes.at_rest(task)  # a nap ends by itself: it is no rest
    ground.world.run(for_ns=10**9)
    assert ground.processes.is_frozen(task)
    assert (program.cursor, task.mm.ptes) == (2, {})


def test_who_sleeps_until_he_is_woken_is_at_rest_and_freezes_when_he_is(ground):
    program = Script(("sleep", None), ("grow", 1))
    task = ground.processes.spawn("p", program)
    ground.world.run(for_ns=10**7)
    ground.processes.freeze()
    assert ground.processes.at_rest(task) and not ground.processes.is_frozen(task)
    ground.sched.wake_up_process(task)
    ground.world.run(for_ns=10**7)
    assert ground.processes.is_frozen(task) and program.cursor == 1


def test_a_process_can_begin_asleep(ground):
    program = Script(("grow", 1))
    task = ground.processes.spawn("p", program, asleep=True)
    ground.world.run(for_ns=10**9)
    assert ground.processes.at_rest(task) and program.cursor == 0
    ground.sched.wake_up_process(task)
    ground.run(task)
    assert task.exit_code == 0


def test_a_frozen_process_that_is_killed_dies_when_it_is_thawed(ground):
    program = Script(*[("sleep", 1)] * 9)
    task = ground.processes.spawn("p", program)
    ground.processes.freeze()
    ground.world.run(for_ns=10**8)
    ground.processes.kill(task)
    ground.processes.thaw()
    ground.run(task)
    assert task.exit_code == 137
    assert program.cursor == 0
    ground.check()
