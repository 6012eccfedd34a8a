"""Programs as plain data: at every step one can be written down, and its copy goes on as it would have."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm.mm_image import MmImage
from kemu_lab.contents import Pattern
from kemu_lab.lackey import parse_trace
from kemu_lab.program_data import check_state, from_data, to_data
from kemu_lab.programs import CycleWriter, FillThenRead, FollowTrace, SleepingReader
from kemu_lab.snapshot_file import ProcessImage

SEED = 5
CONTENTS = Pattern(SEED)


def steps(program):
    found = []
    while (step := program.step()) is not None:
        found.append(step)
    return found


def copied(program):
    """Write it down as a file would hold it, and make it anew."""
    return from_data(json.loads(json.dumps(to_data(program))), CONTENTS, SEED, "c.kemu")


def after(program, count):
    """Let it take some steps; give what it has by then, and where it stands."""
    image = MmImage(0)
    step = None
    for _ in range(count):
        step = program.step()
        if step is None:
            break
        if step[0] == "grow":
            image.brk += step[1]
        elif step[0] == "write":
            image.resident.append((step[1], step[2]))
    return ProcessImage("p", 0, to_data(program), step == ("sleep", None), image)


fillers = st.builds(lambda pages, reads: FillThenRead(pages, reads, CONTENTS, SEED), st.integers(1, 600), st.integers(0, 9))
readers = st.builds(lambda pages: SleepingReader(pages, CONTENTS), st.integers(0, 9))


@given(fillers | readers, st.data())
@settings(max_examples=50, deadline=None)
def test_a_copy_takes_the_steps_that_the_program_takes(program, data):
    after(program, data.draw(st.integers(0, 620)))
    copy = copied(program)
    assert type(copy) is type(program)
    assert steps(copy) == steps(program)


@given(fillers | readers, st.data())
@settings(max_examples=50, deadline=None)
def test_what_a_program_has_come_to_is_accepted_at_every_step_before_its_end(program, data):
    count = data.draw(st.integers(0, 620))
    process = after(program, count)
    if isinstance(program, SleepingReader) and program.cursor > program.pages + 2:
        return  # it has been woken: the story's end has begun
    if isinstance(program, FillThenRead) and program.done and not process.asleep:
        return
    check_state(copied(program), process, "c.kemu")


@pytest.mark.parametrize("spoil", ["brk", "lost", "beyond", "asleep"])
def test_other_memory_than_the_program_has_made_is_refused(spoil):
    program = FillThenRead(10, 3, CONTENTS, SEED)
    process = after(program, 6)
    if spoil == "brk":
        process.mm.brk += 1
    elif spoil == "lost":
        process.mm.resident.pop()
    elif spoil == "beyond":
        process.mm.resident[-1] = (9, bytes(4096))
    else:
        process.asleep = True
    with pytest.raises(ConfigError, match="the memory of 'p'"):
        check_state(program, process, "c.kemu")


@pytest.mark.parametrize(
    "program",
    [CycleWriter(4, 1, CONTENTS, 1), FollowTrace(parse_trace(b" L 1000,8\n", "t"), CONTENTS), object(), None],
    ids=lambda program: type(program).__name__,
)
def test_a_program_that_is_not_in_the_table_is_not_written_down(program):
    with pytest.raises(ConfigError, match=f"runs {type(program).__name__} cannot be written"):
        to_data(program)


@pytest.mark.parametrize(
    "data", [{}, {"kind": None}, {"kind": ["SleepingReader"]}, {"kind": "__import__"}, {"kind": "SleepingReader"}]
)
def test_a_kind_that_does_not_exist_and_a_cursor_that_is_missing_are_one_sentence(data):
    with pytest.raises(ConfigError, match=r"c\.kemu cannot be resumed: "):
        from_data(data, CONTENTS, SEED, "c.kemu")
