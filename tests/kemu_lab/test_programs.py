"""Programs: data with a cursor."""

from kemu_lab.contents import Pattern
from kemu_lab.programs import FillThenRead, FollowTrace, SleepingReader


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
