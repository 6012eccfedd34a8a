"""Programs: data with a cursor."""

import itertools
import json

from kemu_lab.contents import Pattern
from kemu_lab.programs import CycleWriter, FillThenRead, FollowTrace, SleepingReader


def steps(program):
    found = []
    while (step := program.step()) is not None:
        found.append(step)
    return found


def test_fill_then_read_writes_every_page_once_then_reads_random_ones():
    program = FillThenRead(600, 50, Pattern(1), seed=1)
    found = steps(program)

    assert [s[1] for s in found if s[0] == "grow"] == [256, 256, 88]
    assert [s[1] for s in found if s[0] == "write"] == list(range(600))
    assert len({s[1] for s in found if s[0] == "read"}) > 30
    assert found[-1] == ("sleep", None)
    assert program.position == program.total == 650


def test_equal_seeds_read_equal_pages():
    reads = [[s[1] for s in steps(FillThenRead(100, 20, Pattern(1), seed)) if s[0] == "read"] for seed in (1, 1, 2)]

    assert reads[0] == reads[1] != reads[2]


def test_a_trace_is_followed_in_its_order_and_reads_what_it_wrote():
    program = FollowTrace([(7, False), (9, True), (7, False), (7, True)], Pattern(1))
    found = steps(program)

    assert [s[:2] for s in found] == [("grow", 256), ("write", 0), ("write", 1), ("read", 0), ("write", 0), ("sleep", None)]
    assert found[1][2] != found[4][2]


def test_a_sleeping_reader_reads_after_its_sleep_what_it_wrote_before():
    found = steps(SleepingReader(2, Pattern(1)))

    assert [s[0] for s in found] == ["grow", "write", "write", "sleep", "read", "read"]


def test_a_cycle_writes_every_page_in_order():
    program = CycleWriter(300, 2, Pattern(1), tag=1)
    touches = [s[1] for s in steps(program) if s[0] == "write"]

    assert touches == [*range(300), *range(300)]
    assert program.position == program.total == 600


def test_each_cycle_writes_other_bytes():
    first, second = [s[2] for s in steps(CycleWriter(1, 2, Pattern(1), tag=1)) if s[0] == "write"]

    assert first != second


def test_no_two_processes_write_the_same_bytes():
    pages = [{s[2] for s in steps(CycleWriter(50, 1, Pattern(1), tag)) if s[0] == "write"} for tag in (1, 2)]

    assert len(pages[0] | pages[1]) == 100


def test_cycles_on_a_file_map_it_and_end_with_sync_and_unmap():
    file = object()
    found = steps(CycleWriter(10, 1, Pattern(1), tag=1, file=file))
    base = found[0][2]

    assert found[0] == ("mmap", file, base, 10, 0)
    assert [s[1] - base for s in found[1:11]] == list(range(10))
    assert found[-3:] == [("sleep", None), ("msync", base, 10), ("munmap", base, 10)]


def test_cycles_pause_so_that_several_go_forward_together():
    found = [s[0] if s[0] == "sleep" else s[:2] for s in steps(CycleWriter(256, 1, Pattern(1), tag=1))]
    pauses = [at for at, step in enumerate(found[:-1]) if step == "sleep"]

    assert len(pauses) == 256 // 64 - 1
    assert min(b - a for a, b in itertools.pairwise(pauses)) > 60


def test_a_cycle_writer_can_be_written_down_between_two_steps():
    whole = CycleWriter(100, 1, Pattern(1), tag=1)
    half = CycleWriter(100, 1, Pattern(1), tag=1)
    for _ in range(57):
        half.step()
        whole.step()
    kept = {name: value for name, value in vars(half).items() if name != "contents"}
    again = CycleWriter(100, 1, Pattern(1), tag=1)
    vars(again).update(json.loads(json.dumps(kept)))

    assert steps(again) == steps(whole)
