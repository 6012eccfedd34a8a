"""sysctl: integers as text (what patch 17 changes is in tests/patches)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.kernel.errno import EINVAL, ENOENT, EPERM
from kemu.kernel.strtoul import kernel_text
from kemu.kernel.sysctl import jiffies_to_clock_t, minmax_conv, userhz_jiffies_conv


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


def test_reading_an_unknown_name_is_one_sentence(sysctl):
    with pytest.raises(ConfigError, match="there is no sysctl"):
        sysctl.read("vm.none")


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


def test_two_values_for_one_integer_are_a_short_write_and_echo_writes_the_rest(sysctl, box):
    assert sysctl.sys_write("vm.scalar", "12 99\n") == len("12 ")
    assert box[0] == 12
    assert sysctl.sys_write("vm.scalar", "99\n") == len("99\n")
    assert box[0] == 99


def test_sys_write_gives_the_errno(sysctl):
    assert sysctl.sys_write("vm.scalar", "x") == -EINVAL
    assert sysctl.sys_write("vm.none", "1") == -ENOENT


@pytest.mark.parametrize(
    ("text", "value"),
    [("4294967301", 5), ("2147483648", -(1 << 31)), ("-2147483649", (1 << 31) - 1), ("18446744073709551617", 1), ("-0", 0)],
)
def test_a_value_is_an_int_of_32_bits(sysctl, box, text, value):
    assert sysctl.write("vm.scalar", text) == 0
    assert box[0] == value


def test_of_a_very_long_number_the_first_twenty_digits_are_a_value_and_the_rest_the_next(sysctl, box):
    assert sysctl.write("net.vector", "0" * 20 + "15 8") == 0
    assert box == [0, 15, 8]


@pytest.mark.parametrize("text", [b"7\0trailing", b"\xa07\xa0"])
def test_what_the_kernel_takes_for_an_end_or_a_space(sysctl, box, text):
    assert sysctl.write("vm.scalar", text) == 0
    assert box[0] == 7


@pytest.mark.parametrize("text", ["\u0663", "\u00b2", "7\u00e9", "\U0001f600", "\ud800"])
def test_digits_of_other_scripts_are_no_digits(sysctl, box, text):
    assert sysctl.write("vm.scalar", text) == -EINVAL
    assert box[0] == 5


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.binary(max_size=60), st.text(max_size=60), st.text("0123456789-x \t\n\0a", max_size=60)))
def test_no_text_raises_and_what_is_stored_fits_an_int(sysctl, box, text):
    for name in ("vm.scalar", "net.vector"):
        assert sysctl.write(name, text) in (0, -EINVAL)
        taken = sysctl.sys_write(name, text)
        assert taken == -EINVAL or 0 <= taken <= len(kernel_text(text))
    assert all(-(1 << 31) <= value < 1 << 31 for value in box)
    assert sysctl.read("net.vector") == "\t".join(map(str, box)) + "\n"


def test_a_megabyte_of_spaces_or_digits_is_no_trouble(sysctl):
    assert sysctl.write("vm.scalar", " " * (1 << 20)) == -EINVAL
    assert sysctl.write("vm.scalar", "1" * (1 << 20)) == 0


@pytest.mark.parametrize(
    ("text", "result", "jiffies", "shown"),
    [("500", 0, 1250, "500\n"), ("1", 0, 2, "0\n"), ("3000", 0, 7500, "3000\n"), ("-5", 0, -1, "0\n")],
)
def test_centiseconds_are_kept_in_jiffies(kernel, box, text, result, jiffies, shown):
    kernel.sysctl.register(
        "vm.c", lambda: box[0], lambda value: box.__setitem__(0, value), conv=userhz_jiffies_conv, show=jiffies_to_clock_t
    )
    assert kernel.sysctl.write("vm.c", text) == result
    assert box[0] == jiffies
    assert kernel.sysctl.read("vm.c") == shown


def test_centiseconds_beyond_a_long_are_refused_with_a_positive_number(kernel, box):
    kernel.sysctl.register("vm.c", lambda: box[0], lambda value: box.__setitem__(0, value), conv=userhz_jiffies_conv)
    assert kernel.sysctl.write("vm.c", "9" * 19) == 1  # with patch 17; a byte count to who called write(2)
    assert box[0] == 5
