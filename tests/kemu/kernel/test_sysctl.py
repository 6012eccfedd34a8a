"""sysctl: integers as text (what patch 17 changes is in tests/patches)."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EINVAL, ENOENT, EPERM
from kemu.kernel.sysctl import minmax_conv, simple_strtoul


@pytest.fixture
def box():
    return [5, 6, 7]


@pytest.fixture
def sysctl(kernel, box):
    kernel.sysctl.register("vm.scalar", lambda: box[0], lambda value: box.__setitem__(0, value))
    kernel.sysctl.register("net.vector", lambda: box, lambda value, index: box.__setitem__(index, value), count=3)
    kernel.sysctl.register("vm.fixed", lambda: 42)
    return kernel.sysctl


@pytest.mark.parametrize(
    ("text", "value"), [("12", 12), (" 12\n", 12), ("-3", -3), ("0x1f", 31), ("017", 15), ("0", 0), ("12 99", 12), ("\t9\n\n", 9)]
)
def test_a_scalar_is_written_and_read_back(sysctl, box, text, value):
    assert sysctl.write("vm.scalar", text) == 0
    assert box[0] == value
    assert sysctl.read("vm.scalar") == f"{value}\n"


@pytest.mark.parametrize("text", ["abc", "12abc", "-", "--1", "x12", "1.5"])
def test_what_is_no_number_is_refused(sysctl, box, text):
    assert sysctl.write("vm.scalar", text) == -EINVAL
    assert box[0] == 5


def test_a_vector_takes_as_many_values_as_there_are(sysctl, box):
    assert sysctl.write("net.vector", "1 2") == 0
    assert box == [1, 2, 7]
    assert sysctl.write("net.vector", "3\t-4 5 6 7") == 0
    assert box == [3, -4, 5]
    assert sysctl.read("net.vector") == "3\t-4\t5\n"


def test_garbage_behind_good_values_keeps_them(sysctl, box):
    assert sysctl.write("net.vector", "1 x 3") == 0
    assert box == [1, 6, 7]


def test_read_only_and_unknown_names(sysctl):
    assert sysctl.write("vm.fixed", "1") == -EPERM
    assert sysctl.write("vm.none", "1") == -ENOENT
    assert sysctl.read("vm.fixed") == "42\n"
    assert sysctl.names() == ["net.vector", "vm.fixed", "vm.scalar"]


def test_a_handler_runs_after_a_write_that_stored_something(kernel, box):
    log = []
    kernel.sysctl.register("vm.h", lambda: box[0], lambda value: box.__setitem__(0, value), handler=lambda: log.append(box[0]))
    kernel.sysctl.write("vm.h", "9")
    kernel.sysctl.write("vm.h", "nine")
    kernel.sysctl.read("vm.h")
    assert log == [9]


@pytest.mark.parametrize(("text", "result"), [("1", 0), ("10", 0), ("0", -EINVAL), ("11", -EINVAL), ("-5", -EINVAL)])
def test_minmax_refuses_what_is_out_of_range(kernel, box, text, result):
    kernel.sysctl.register("vm.m", lambda: box[0], lambda value: box.__setitem__(0, value), conv=minmax_conv(1, 10))
    assert kernel.sysctl.write("vm.m", text) == result
    assert box[0] == (5 if result else int(text))


@pytest.mark.parametrize(
    ("text", "expected"), [("0x", (0, 1)), ("0xg", (0, 1)), ("09", (0, 1)), ("0xFFz", (255, 4)), ("7", (7, 1))]
)
def test_strtoul_takes_the_base_from_the_digits(text, expected):
    assert simple_strtoul(text, 0) == expected
