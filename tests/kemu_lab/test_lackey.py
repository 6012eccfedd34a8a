"""Traces of valgrind's lackey."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kemu_lab
from kemu.errors import ConfigError
from kemu_lab.lackey import parse_trace

SHIPPED = Path(kemu_lab.__file__).parent / "data/true.trace"


def test_kinds_of_lines():
    data = b"==1== comment\nI  04001090,3\n L 1ffefffe08,8\n S 1ffefffe00,8\n M 0421c7cc,4\n"

    assert parse_trace(data, "t") == [(0x4001, False), (0x1FFEFFF, False), (0x1FFEFFF, True), (0x421C, True)]


def test_an_access_across_a_boundary_touches_both_pages():
    assert parse_trace(b" S 1ffe,4\n", "t") == [(1, True), (2, True)]


def test_touches_of_one_page_in_a_row_are_one():
    assert parse_trace(b" L 1000,4\nI  1008,4\n S 1010,4\n L 1000,4\n", "t") == [(1, False), (1, True)]


@pytest.mark.parametrize(
    "line", [b" X 1000,4", b"I 1000,4", b" L 1000", b" L zzz,4", b" L 1000,4,4", b" L 1000,0", b"=", b"\xff\xfe"]
)
def test_a_malformed_line_is_named_by_its_number(line):
    with pytest.raises(ConfigError, match=re.escape("--trace t: line 2 ")):
        parse_trace(b" L 1000,4\n" + line + b"\n", "t")


def test_an_empty_trace_is_refused():
    with pytest.raises(ConfigError, match="no access"):
        parse_trace(b"==1== nothing\n", "t")


def test_the_shipped_trace_is_read_whole():
    data = SHIPPED.read_bytes()
    touches = parse_trace(data, "true.trace")

    assert data.count(b"\n") > 12000
    assert len({vpn for vpn, _ in touches}) == 12


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_config_error(data):
    try:
        parse_trace(data, "t")
    except ConfigError as error:
        assert "\n" not in str(error)
