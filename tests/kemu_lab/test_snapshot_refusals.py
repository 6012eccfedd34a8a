"""What is refused before anything boots: lies about programs and options, places where no file can be, files that are none."""

from __future__ import annotations

import copy
import json
import os
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm.mm_image import MmImage
from kemu_lab.cli import main
from kemu_lab.contents import Pattern
from kemu_lab.program_data import check_state, from_data
from kemu_lab.resume import options_of
from kemu_lab.snapshot_file import ProcessImage, Snapshot, check_target, decode, encode, read_file, write_file
from snapshot_ground import HEADER_AT, MAGIC, RUN, WORKER, page, put_together, seal, small, take_apart

FILE = encode(small())
HEADER, PAGES = take_apart(FILE)


def refusal(data, name="c.kemu"):
    """Give the sentence with which a file is refused."""
    with pytest.raises(ConfigError) as caught:
        decode(data, name)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


def assert_one_sentence(text):
    assert text.isprintable(), text
    assert 0 < len(text) < 400, text


def accept_or_refuse(data):
    """Do all that is done with a file before anything boots."""
    try:
        snapshot = decode(data, "c.kemu")
        config = options_of(snapshot, "c.kemu")
        for process in snapshot.processes:
            check_state(from_data(process.program, Pattern(1), config.seed, "c.kemu"), process, "c.kemu")
    except ConfigError as error:
        assert_one_sentence(str(error))
        return None
    return snapshot


def changed(*path, to):
    """Give the small file with one member of its header replaced, and its checksum mended."""
    header = copy.deepcopy(HEADER)
    *way, last = path
    place = header
    for key in way:
        place = place[key]
    place[last] = to
    return put_together(header, PAGES)


# ---- what it looks like


def test_the_file_is_as_the_document_says():
    assert FILE.startswith(MAGIC)
    text = FILE[HEADER_AT : HEADER_AT + int.from_bytes(FILE[16:24], "big")]
    assert text == json.dumps(HEADER, sort_keys=True, separators=(",", ":")).encode()
    assert sorted(HEADER) == ["clock_ns", "counters", "pages", "processes", "run", "sockets", "story", "swap"]
    assert page(1) + page(3) + page(0) == PAGES
    worker = HEADER["processes"][1]
    assert worker["resident"] == [3, 0]
    assert [row[:3] for row in worker["swapped"]] == [[1, 0, 11], [2, 0, 12], [4, 0, 14]]


names = st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters="/"), min_size=1, max_size=8)


@st.composite
def snapshots(draw):
    """Draw snapshots that could be: no page, slot or port twice."""
    slots = iter(draw(st.permutations(range(1, 40))))
    processes = []
    for _ in range(draw(st.integers(0, 3))):
        vpns = draw(st.lists(st.integers(0, 9), unique=True))
        here = draw(st.integers(0, len(vpns)))
        swapped = [(vpn, next(slots), draw(st.binary(min_size=32, max_size=32))) for vpn in vpns[here:]]
        image = MmImage(10, [(vpn, page(vpn)) for vpn in vpns[:here]], swapped)
        processes.append(ProcessImage("p", draw(st.integers(0, 2**32 - 2)), {"kind": "x"}, draw(st.booleans()), image))
    frames = st.lists(st.binary(min_size=14, max_size=99), max_size=3)
    sockets = draw(st.dictionaries(st.integers(1, 65535), frames, max_size=3))
    counts = st.dictionaries(names, st.integers(0, 2**62), max_size=3)
    return Snapshot({"seed": 1}, draw(st.integers(0, 10**14)), "s", 40, processes, [*sockets.items()], draw(counts), draw(counts))


@given(snapshots())
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(snapshot):
    assert decode(encode(snapshot), "c.kemu") == snapshot


# ---- damaged


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_the_file_can_flip_unseen(bit):
    for at in range(len(FILE)):
        with pytest.raises(ConfigError):
            decode(FILE[:at] + bytes([FILE[at] ^ 1 << bit]) + FILE[at + 1 :], "c.kemu")


@given(st.integers(0, len(FILE)), st.integers(0, len(FILE)), st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_bytes_that_are_replaced_taken_out_or_put_in_are_seen(start, stop, new):
    data = FILE[: min(start, stop)] + new + FILE[max(start, stop) :]
    if data != FILE:
        refusal(data)


@given(st.integers(HEADER_AT, len(FILE) - 33), st.integers(HEADER_AT, len(FILE) - 33), st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_damage_under_a_mended_checksum_raises_nothing_else(start, stop, new):
    body = FILE[: min(start, stop)] + new + FILE[max(start, stop) : -32]
    accept_or_refuse(seal(body[HEADER_AT:], b"", size=int.from_bytes(FILE[16:24], "big")))


# ---- lies


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("clock_ns",), 2**62, "'clock_ns'"),
        (("clock_ns",), True, "'clock_ns'"),
        (("swap", "pages"), 2**63, "'pages'"),
        (("swap", "pages"), 12, "'slot'"),
        (("swap", "file"), "../swapfile", "'file'"),
        (("swap", "file"), "..", "'file'"),
        (("swap", "file"), "a\nb", "'file'"),
        (("swap", "file"), "x" * 256, "'file'"),
        (("processes", 1, "uid"), 2**32 - 1, "'uid'"),
        (("processes", 1, "comm"), "\ud800", "'comm'"),
        (("processes", 1, "brk"), 2**24 + 1, "'brk'"),
        (("processes", 1, "brk"), 4, "'page'"),
        (("processes", 1, "brk"), 0, "'page'"),
        (("processes", 1, "resident", 0), 1, "twice"),
        (("processes", 1, "resident", 0), -1, "'page'"),
        (("processes", 1, "resident", 0), "3", "'page'"),
        (("processes", 1, "swapped", 0, 3), "0" * 66, "'digest'"),
        (("sockets", 1, "port"), 40000, "port 40000 stands in it twice"),
        (("sockets", 1, "frames"), ["00" * 13], "'frames'"),
        (("sockets", 1, "frames"), [0] * 70_000, "datagrams"),
        (("sockets",), [{"port": 1, "frames": []}] * 5000, "sockets"),
        (("story", "next\nburst"), "x", "'next\\nburst'"),
    ],
)
def test_each_lie_is_refused_with_its_sentence(path, value, word):
    assert word in refusal(changed(*path, to=value))


# ---- any member of the header may be anything


def places(value, path=()):
    """List the way to every member of a JSON value."""
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


PLACES = [path for path in places(HEADER) if path]
scalars = st.none() | st.booleans() | st.integers(-2, 70) | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), anything), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_whatever_the_header_says_only_a_sentence_comes_of_it(changes):
    header = copy.deepcopy(HEADER)
    for path, value in changes:
        place = header
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (KeyError, IndexError, TypeError):  # an earlier change took the way to this one
            continue
    accept_or_refuse(put_together(header, PAGES))


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_no_member_may_be_missing_or_of_another_kind(path):
    header = copy.deepcopy(HEADER)
    place = header
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    gone = accept_or_refuse(put_together(header, PAGES))
    optional = path == ("run", "fill") or path[0] in ("story", "counters", "sockets")
    assert gone is None or optional
    assert accept_or_refuse(changed(*path, to={"never": "this"})) is None


def test_a_kind_nested_as_deep_as_json_may_be_is_one_sentence():
    text = json.dumps(HEADER).encode()
    for depth in range(10, 3000, 10):
        deep = text.replace(b'"FillThenRead"', b"[" * depth + b"]" * depth)
        assert accept_or_refuse(seal(deep, zlib.compress(PAGES))) is None


# ---- programs and options


@pytest.mark.parametrize(
    "cursor",
    [
        {"kind": "os.system"},
        {"grown": 7},
        {"grown": 5},
        {"written": 6},
        {"written": 4},
        {"read": 1},
        {"done": 1},
        {"done": 2},
        {"pages": 2**25},
        {"reads": -1},
        {"pages": 0, "grown": 0, "written": 0},
    ],
)
def test_a_program_that_does_not_go_with_its_memory_is_refused(cursor):
    assert accept_or_refuse(changed("processes", 1, "program", to=WORKER | cursor)) is None


@pytest.mark.parametrize("cursor", [0, 1, 2, 3, 5, 7, 8])
def test_a_sleeper_that_is_not_where_it_sleeps_is_refused(cursor):
    assert accept_or_refuse(changed("processes", 0, "program", "cursor", to=cursor)) is None


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_sleeps_where_its_program_does_and_nowhere_else(number):
    asleep = HEADER["processes"][number]["asleep"]
    assert accept_or_refuse(changed("processes", number, "asleep", to=not asleep)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scenario", "acceptance"),
        ("mem", 2**70),
        ("mem", -1),
        ("cpus", 9),
        ("cpus", 0),
        ("seed", 2**32),
        ("patches", "all,-99"),
        ("fixes", "b99"),
        ("loss", "nan"),
        ("latency_ns", 0),
        ("mtu", 10),
        ("nic", "golden"),
        ("fill", 1),
    ],
)
def test_options_that_run_would_not_take_are_refused(key, value):
    assert accept_or_refuse(changed("run", to=RUN | {key: value})) is None


def test_the_small_file_itself_is_accepted():
    assert accept_or_refuse(FILE) == small()


# ---- files


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "c.kemu"
    target.write_bytes(b"mine")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_file(str(target), FILE, force=True)
    assert target.read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.kemu"]


@pytest.mark.parametrize("name", [".", "no/such/place", "x" * 300])
def test_a_place_where_no_file_can_be_is_refused_beforehand(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_target(name, force=True)
    assert_one_sentence(str(caught.value))


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(ConfigError, match="no regular file"):
            read_file(str(name))


@pytest.mark.parametrize("name", ["missing", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_opened_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_file(name)
    assert_one_sentence(str(caught.value))


# ---- on the command line


def test_a_damaged_file_is_exit_status_2_and_one_line(tmp_path, capsys):
    (tmp_path / "c.kemu").write_bytes(FILE[:-1])
    assert main(["resume", str(tmp_path / "c.kemu"), "--server-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "damaged" in err


def test_show_tells_what_is_inside(tmp_path, capsys):
    (tmp_path / "c.kemu").write_bytes(FILE)
    assert main(["resume", "--show", str(tmp_path / "c.kemu")]) == 0
    assert "2 processes, 3 pages carried, 4 left in the swap file" in capsys.readouterr().out
    assert main(["resume", "--show", "--json", str(tmp_path / "c.kemu")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["run"] == RUN
    assert (facts["virtual_ns"], facts["swap"]["pages"], facts["datagrams"]) == (1_500_000_000, 64, 2)


def test_without_a_server_nothing_can_be_resumed(tmp_path, capsys):
    (tmp_path / "c.kemu").write_bytes(FILE)
    assert main(["resume", str(tmp_path / "c.kemu")]) == 2
    assert "--server-dir" in capsys.readouterr().err
