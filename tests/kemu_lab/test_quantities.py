"""Sizes, times and probabilities as a person types them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu_lab.quantities import format_size, format_time, parse_probability, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "size"), [("16M", 16 << 20), ("1G", 1 << 30), ("4096", 4096), ("64k", 65536), ("8MiB", 8 << 20), ("8MB", 8 << 20)]
)
def test_sizes(text, size):
    assert parse_size(text, "--mem", 0, 1 << 40) == size


@pytest.mark.parametrize("text", ["", "M", "x", "-1M", "1.5M", "1T", "1 M M", "9" * 13, "٣M"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match="--mem"):
        parse_size(text, "--mem", 1, 1 << 40)


def test_a_size_out_of_range_names_the_range():
    with pytest.raises(ConfigError, match="8M to 64G"):
        parse_size("1M", "--mem", 8 << 20, 64 << 30)


@pytest.mark.parametrize(("text", "ns"), [("200us", 200_000), ("1.5ms", 1_500_000), ("15m", 900 * 10**9), ("7ns", 7)])
def test_times(text, ns):
    assert parse_time(text, "--latency", 0, 10**13) == ns


@pytest.mark.parametrize("text", ["", "5", "us", "-1us", "1e3us", "nan s"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="--latency"):
        parse_time(text, "--latency", 0, 10**13)


@pytest.mark.parametrize("text", ["x", "", "-0.1", "1.1", "nan", "inf"])
def test_what_is_no_probability(text):
    with pytest.raises(ConfigError, match="--loss"):
        parse_probability(text, "--loss")


@given(st.integers(1, 10**11))
def test_a_size_is_written_as_it_is_read(size):
    assert parse_size(format_size(size), "x", 0, 1 << 41) == size


@given(st.integers(0, 10**9))
def test_a_time_is_written_as_it_is_read(ns):
    assert parse_time(format_time(ns), "x", 0, 10**12) == ns


@given(st.text(max_size=12))
def test_no_text_raises_anything_but_a_config_error(text):
    for parse in (
        lambda: parse_size(text, "x", 0, 1 << 60),
        lambda: parse_time(text, "x", 0, 1 << 60),
        lambda: parse_probability(text, "x"),
    ):
        try:
            parse()
        except ConfigError:
            pass
