"""Numbers in text as the kernel reads them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.strtoul import c_int, isspace, kernel_text, simple_strtoul


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0x", (0, 1)), ("0xg", (0, 1)), ("09", (0, 1)), ("0xFFz", (255, 4)), ("7", (7, 1)), ("", (0, 0)), ("0", (0, 1))],
)
def test_the_base_comes_from_the_digits(text, expected):
    assert simple_strtoul(text, 0) == expected


@settings(max_examples=50, deadline=None)
@given(value=st.integers(0, 1 << 70), form=st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}"]))
def test_a_number_comes_back_modulo_64_bits(value, form):
    text = form.format(value)
    assert simple_strtoul(text, 0) == (value % (1 << 64), len(text))


@settings(max_examples=50, deadline=None)
@given(value=st.integers(-(1 << 70), 1 << 70))
def test_an_int_keeps_the_low_32_bits(value):
    assert -(1 << 31) <= c_int(value) < 1 << 31
    assert (c_int(value) - value) % (1 << 32) == 0


def test_spaces_are_those_of_the_kernels_table():
    assert [code for code in range(256) if isspace(chr(code))] == [9, 10, 11, 12, 13, 32, 160]
    assert not isspace("")


def test_text_becomes_bytes():
    assert kernel_text("\u00e9") == "\xc3\xa9"
    assert kernel_text(b"\xff") == "\xff"
