"""The header page (mm/swap_header.py)."""

from __future__ import annotations

from kemu.mm.swap_header import mkswap_header, read_header


def test_what_mkswap_writes_swapon_reads():
    page = mkswap_header(100, (3, 7))
    assert len(page) == 4096
    assert page[4086:] == b"SWAPSPACE2"
    assert read_header(page) == (99, (3, 7))


def test_a_page_of_zeros_is_no_header():
    assert read_header(bytes(4096)) == "Unable to find swap-space signature"


def test_another_version_is_refused():
    page = bytearray(mkswap_header(100))
    page[1024] = 2
    assert "version 2" in read_header(bytes(page))


def test_a_bad_page_outside_the_area_is_refused():
    assert "outside" in read_header(mkswap_header(100, (100,)))


def test_too_many_bad_pages_are_refused():
    page = bytearray(mkswap_header(100))
    page[1032:1036] = (638).to_bytes(4, "little")
    assert "Too many" in read_header(bytes(page))
