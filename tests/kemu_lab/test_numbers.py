"""Whole numbers that a person types."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu_lab.numbers import whole_number


def test_a_number_in_range_is_read():
    assert whole_number("17", "--n", 1, 17) == 17


@pytest.mark.parametrize("text", ["", "0", "18", "-1", "+1", " 1", "1.0", "0x1", "²", "9" * 5000])
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="it is a whole number from 1 to 17"):
        whole_number(text, "--n", 1, 17)


@given(st.text())
def test_no_text_raises_anything_but_the_documented_error(text):
    try:
        assert 0 <= whole_number(text, "--n", 0, 99) <= 99
    except ConfigError:
        pass
