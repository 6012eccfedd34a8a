"""The file of a snapshot: what is written is read back, and what anybody else may have written is refused with one sentence."""

from __future__ import annotations

import json
import zlib
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm.mm_image import MmImage
from kemu_lab.snapshot_file import MAGIC, ProcessImage, Snapshot, decode, encode, read_file, write_file

PAGE = 4096


def digest(vpn):
    return sha256(bytes((vpn,)) * PAGE).digest()


def sample():
    """A snapshot with everything in it."""
    heap = MmImage(8, [(3, b"\3" * PAGE), (0, b"\0" * PAGE)], [(1, 17, digest(1)), (5, 4, digest(5))])
    small = MmImage(2, [(0, b"x" * PAGE)], [(1, 5, digest(7))])
    return Snapshot(
        run={"scenario": "main", "mem": 16 << 20, "fill": None},
        clock_ns=3_417_000_001,
        swap_file="swapfile",
        swap_pages=32,
        processes=[
            ProcessImage("worker", 0, {"kind": "FillThenRead", "pages": 8}, False, heap),
            ProcessImage("reader0", 1000, {"kind": "SleepingReader", "pages": 2, "cursor": 4}, True, small),
        ],
        sockets=[(40000, [b"frame" * 12, bytes(60)]), (40001, [])],
        story={"next_burst": 4000},
        counters={"pswpout": 3000},
    )


GOOD = encode(sample())
SIZE = int.from_bytes(GOOD[16:24], "big")
HEADER = json.loads(GOOD[24 : 24 + SIZE])
BODY = GOOD[24 + SIZE : -32]


def build(header, body=BODY, magic=MAGIC):
    """A file with another header whose checksum is right."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = magic + len(text).to_bytes(8, "big") + text + body
    return data + sha256(data).digest()


def refused(data, said):
    with pytest.raises(ConfigError, match=said) as caught:
        decode(data, "client.kemu")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("client.kemu cannot be resumed: ")


def test_what_is_written_is_read_back():
    assert decode(GOOD, "client.kemu") == sample()


def test_the_same_client_gives_the_same_bytes():
    assert encode(sample()) == GOOD


def test_a_foreign_file_is_refused():
    refused(b"\x7fELF" + bytes(100), "no snapshot of kemu")
    refused(b"", "no snapshot of kemu")


def test_another_version_is_refused_as_such():
    refused(build(HEADER, magic=b"kemu-snapshot 2\n"), "another version of kemu")


@pytest.mark.parametrize("size", [16, 20, 24, 40, len(GOOD) // 2, len(GOOD) - 1])
def test_a_file_that_is_cut_off_is_refused(size):
    refused(GOOD[:size], "cut off|damaged")


def test_a_header_that_claims_to_be_endless_allocates_nothing():
    refused(MAGIC + b"\xff" * 8 + bytes(64), "cut off")


@given(st.integers(16, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=50, deadline=None)
def test_a_flipped_bit_anywhere_is_found(at, bits):
    refused(GOOD[:at] + bytes((GOOD[at] ^ bits,)) + GOOD[at + 1 :], "damaged|cut off")


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_no_bytes_raise_anything_else(data):
    for bytes_ in (data, MAGIC + data, build(data)):
        with pytest.raises(ConfigError):
            decode(bytes_, "f")


def test_pages_that_unpack_to_more_than_the_header_says_are_refused():
    bomb = zlib.compress(bytes(64 << 20))
    refused(build(HEADER, bomb), "not as many as its header says")
    refused(build(HEADER, BODY + b"more"), "not as many as its header says")
    refused(build(HEADER, zlib.compress(b"few")), "not as many as its header says")
    refused(build(HEADER, b"no zlib"), "cannot be unpacked")


def changed(**parts):
    return HEADER | parts


def process(**parts):
    return changed(processes=[HEADER["processes"][0] | parts, HEADER["processes"][1]])


D = digest(1).hex()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ([], "has no 'swap'"),
        (changed(swap=[]), "'swap' in its header is not what it should be"),
        (changed(swap={"file": "s", "pages": 10**12}), "'pages' in its header is no number from 2 to"),
        (changed(swap={"file": "a/b", "pages": 32}), "'file' in its header is no name"),
        (changed(swap={"file": "", "pages": 32}), "'file' in its header is no name"),
        (changed(pages=4), "the number of its pages"),
        (changed(pages=True), "'pages' in its header is not what it should be"),
        (changed(clock_ns=-1), "'clock_ns' in its header is no number"),
        (changed(clock_ns=1.5), "'clock_ns' in its header is not what it should be"),
        (changed(counters={"pswpout": "many"}), "'pswpout' in its header is no number"),
        (changed(story={"next_burst": 1 << 70}), "'next_burst' in its header is no number"),
        (changed(sockets=[{"port": 0, "frames": []}]), "'port' in its header is no number from 1 to 65535"),
        (changed(sockets=[{"port": 1, "frames": ["xyz"]}]), "not written in hexadecimal digits"),
        (changed(sockets=[{"port": 1, "frames": ["00" * 20000]}]), "'frames' in its header is too long"),
        (changed(processes=[7]), "has no 'resident'"),
        (changed(processes={}), "'processes' in its header is not what it should be"),
        (process(uid=-1), "'uid' in its header is no number"),
        (process(comm="a\nb"), "'comm' in its header is no name"),
        (process(asleep=1), "'asleep' in its header is not what it should be"),
        (process(program="rm"), "'program' in its header is not what it should be"),
        (process(brk=2), "'page' in its header is no number from 0 to 1"),
        (process(resident=[3, 3]), "page 3 of 'worker' stands in it twice"),
        (process(swapped=[[3, 0, 9, D]]), "page 3 of 'worker' stands in it twice"),
        (process(swapped=[[1, 0, 9, D], [2, 0, 9, D]]), "slot 9 stands in it twice"),
        (process(swapped=[[1, 0, 5, D]]), "slot 5 stands in it twice"),  # the other process has it
        (process(swapped=[[1, 0, 0, D]]), "'slot' in its header is no number from 1 to 31"),
        (process(swapped=[[1, 0, 32, D]]), "'slot' in its header is no number from 1 to 31"),
        (process(swapped=[[1, 1, 9, D]]), "'area' in its header is no number from 0 to 0"),
        (process(swapped=[[1, 0, 9]]), "'swapped' in its header is not what it should be"),
        (process(swapped=[[1, 0, 9, "00"]]), "'digest' in its header is too short"),
        (process(swapped=[[1, 0, 9, None]]), "'digest' in its header is not written in hexadecimal digits"),
    ],
)
def test_a_header_that_lies_is_refused(header, said):
    refused(build(header), said)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_value_anywhere_in_the_header_is_taken_or_refused(data):
    header = json.loads(json.dumps(HEADER))
    place = header
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    try:
        decode(build(header), "f")
    except ConfigError as error:
        assert "\n" not in str(error)


def test_a_file_is_written_whole_and_replaces_no_other(tmp_path):
    path = tmp_path / "client.kemu"
    write_file(str(path), GOOD)
    assert read_file(str(path)) == sample()
    with pytest.raises(ConfigError, match="is there already; --force replaces it"):
        write_file(str(path), b"other")
    write_file(str(path), b"other", force=True)
    assert path.read_bytes() == b"other"
    assert [entry.name for entry in tmp_path.iterdir()] == ["client.kemu"]


@pytest.mark.parametrize("name", ["no/such/dir/f", "\0", ""])
def test_a_name_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for act in (lambda: write_file(name, GOOD), lambda: read_file(name)):
        with pytest.raises(ConfigError):
            act()
    assert list(tmp_path.iterdir()) == []
