"""A client that moves: stopped in one process, resumed in another, against the same server; every page comes back right."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kemu_lab
from kemu.errors import ConfigError
from kemu.mm.page import Page, PG_locked, PG_writeback
from kemu_lab.cli import main
from kemu_lab.progress import Watch
from kemu_lab.resume import options_of
from kemu_lab.run_config import RunConfig
from kemu_lab.server_url import parse_server
from kemu_lab.snapshot import SnapshotJob, take_snapshot
from kemu_lab.snapshot_file import decode, read_file
from kemu_lab.swap_home import SWAP_FILE
from real_ground import serving
from snapshot_ground import put_together, take_apart

pytestmark = pytest.mark.xdist_group("snapshot")

ROOT = Path(kemu_lab.__file__).parents[1]
SCHEMA = json.loads((ROOT / "kemu_lab/data/run.schema.json").read_text())
PAGE = 4096
MEM = 12 << 20
SECONDS = 120
# the main job with fewer reads, so that the second half is short; resume takes their number from the file
SHORT = """
import sys
from kemu_lab import cli
from kemu_lab.scenarios import main_job

main_job.READS = 100
sys.exit(cli.main(sys.argv[1:]))
"""


def kemu(*words, code=None):
    """Run kemu in a process of its own."""
    start = ["-m", "kemu_lab.cli"] if code is None else ["-c", code]
    words = [sys.executable, *start, *map(str, words)]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT)


class Taken:
    """A snapshot that another process has taken, and the directory of its server."""

    def __init__(self, where):
        self.directory = where / "export"
        self.directory.mkdir()
        self.file = where / "c.kemu"
        words = ["snapshot", "--mem", "12M", "--at-pages", 4600, "--server-dir", self.directory, "-o", self.file, "--json"]
        self.done = kemu(*words, code=SHORT)
        assert self.done.returncode == 0, self.done.stderr

    def server(self, where):
        """Copy the server's directory: each half that is resumed has one of its own."""
        goal = where / "export"
        goal.mkdir()
        shutil.copy(self.directory / SWAP_FILE, goal / SWAP_FILE)
        return goal


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    return Taken(tmp_path_factory.mktemp("taken"))


@pytest.fixture(scope="module")
def resumed(taken, tmp_path_factory):
    """What the resumed half printed, and its server's directory."""
    directory = taken.server(tmp_path_factory.mktemp("resumed"))
    done = kemu("resume", taken.file, "--server-dir", directory, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), directory


# ---- a round trip


def test_a_client_that_moved_survives_and_every_page_is_right(resumed):
    result, _ = resumed
    jsonschema.validate(result, SCHEMA)
    assert result["outcome"] == "survived"
    assert result["pages"]["lost"] == 0
    assert result["pages"]["touched"] == 2 * MEM // PAGE + 60 * 4


def test_each_page_that_was_in_swap_is_compared(taken, resumed):
    result, _ = resumed
    snapshot = read_file(str(taken.file))
    swapped = sum(len(process.mm.swapped) for process in snapshot.processes)
    assert swapped > 4000
    assert result["pages"]["verified"] >= swapped + snapshot.counters["verified"]


def test_the_counters_and_the_clock_go_on(taken, resumed):
    result, _ = resumed
    snapshot = read_file(str(taken.file))
    assert result["pages"]["swapped_out"] >= snapshot.counters["pswpout"] >= 4600
    assert result["virtual_ns"] > snapshot.clock_ns


def test_nothing_is_left_of_the_reserve_or_on_the_server(resumed):
    result, directory = resumed
    assert (result["reserve"]["left_bytes"], result["reserve"]["leaked_pages"]) == (0, 0)
    assert list(directory.iterdir()) == []


def test_the_same_file_twice_is_the_same_history(taken, resumed, tmp_path, capsys):
    assert main(["resume", str(taken.file), "--server-dir", str(taken.server(tmp_path)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["history"] == resumed[0]["history"]


def test_it_goes_on_against_a_real_server_too(taken, tmp_path, capsys):
    with serving(taken.server(tmp_path)) as (url, _):
        assert main(["resume", str(taken.file), "--server", url, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["outcome"], result["pages"]["lost"]) == ("survived", 0)
    assert list((tmp_path / "export").iterdir()) == []


def test_a_client_whose_work_is_done_only_has_to_leave(taken, tmp_path, capsys):
    """The worker sleeps until it is told to end: the second half begins with the end of the story."""
    header, pages = take_apart(taken.file.read_bytes())
    worker = header["processes"][-1]
    size = worker["program"]["written"]
    worker["program"] |= {"pages": size, "grown": size, "reads": 0, "read": 0, "done": 1}
    worker |= {"brk": size, "asleep": True}
    (tmp_path / "done.kemu").write_bytes(put_together(header, pages))
    assert main(["resume", str(tmp_path / "done.kemu"), "--server-dir", str(taken.server(tmp_path)), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["outcome"], result["pages"]["touched"]) == ("survived", size + 60 * 4)


# ---- what is in the file


def test_the_server_holds_what_the_file_says(taken):
    data = (taken.directory / SWAP_FILE).read_bytes()
    for process in read_file(str(taken.file)).processes:
        for _, slot, digest in process.mm.swapped:
            assert hashlib.sha256(data[slot * PAGE : (slot + 1) * PAGE]).digest() == digest


def test_every_written_page_is_carried_or_left_in_swap(taken):
    snapshot = read_file(str(taken.file))
    for process in snapshot.processes:
        pages = [vpn for vpn, _ in process.mm.resident] + [row[0] for row in process.mm.swapped]
        assert sorted(pages) == list(range(process.program.get("written", 4)))


def test_it_says_what_it_has_written(taken):
    facts = json.loads(taken.done.stdout)
    snapshot = read_file(str(taken.file))
    assert facts["virtual_ns"] == snapshot.clock_ns
    assert facts["pages_in_swap"] == sum(len(process.mm.swapped) for process in snapshot.processes)
    assert (facts["processes"], facts["sockets"], facts["run"]["mem"]) == (61, 60, MEM)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_no_damage_to_a_real_file_is_overlooked(taken, data):
    whole = taken.file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]):
        with pytest.raises(ConfigError):
            decode(damaged, "c.kemu")


def test_the_interface_for_swap_files_moves_along(tmp_path):
    config = RunConfig(mem=MEM, server_dir=str(tmp_path), swap_ops="swapout")
    snapshot = take_snapshot(config, Watch(), lambda _: None, at_pages=100, at_ns=None)
    assert options_of(snapshot, "c.kemu").swap_ops == "swapout"


# ---- what is wrong only together with the server


def test_a_page_that_somebody_changed_is_lost_data(taken, tmp_path, capsys):
    directory = taken.server(tmp_path)
    worker = read_file(str(taken.file)).processes[-1]
    _, slot, _ = worker.mm.swapped[len(worker.mm.swapped) // 2]
    with (directory / SWAP_FILE).open("r+b") as file:
        file.seek(slot * PAGE + 77)
        file.write(b"!")
    assert main(["resume", str(taken.file), "--server-dir", str(directory), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["outcome"] == "data_loss"


def cut_short(path):
    with path.open("r+b") as file:
        file.truncate(100 * PAGE)


def wipe_header(path):
    with path.open("r+b") as file:
        file.write(bytes(PAGE))


@pytest.mark.parametrize(("spoil", "word"), [(cut_short, "has 100 pages"), (wipe_header, "EINVAL"), (Path.unlink, "ENOENT")])
def test_a_server_without_its_swap_file_is_refused_and_nothing_is_removed(taken, tmp_path, capsys, spoil, word):
    directory = taken.server(tmp_path)
    (directory / "precious").write_bytes(b"mine")
    spoil(directory / SWAP_FILE)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert main(["resume", str(taken.file), "--server-dir", str(directory)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_file_of_another_name_on_the_server_is_never_removed(taken, tmp_path, capsys):
    directory = taken.server(tmp_path)
    (directory / "precious").write_bytes(b"mine")
    header, pages = take_apart(taken.file.read_bytes())
    header["swap"]["file"] = "precious"
    (tmp_path / "foreign.kemu").write_bytes(put_together(header, pages))
    assert main(["resume", str(tmp_path / "foreign.kemu"), "--server-dir", str(directory)]) == 2
    assert "'precious' has 0 pages" in capsys.readouterr().err
    assert (directory / "precious").read_bytes() == b"mine"


def test_more_pages_than_the_memory_has_are_refused(taken, tmp_path, capsys):
    header, pages = take_apart(taken.file.read_bytes())
    worker = header["processes"][-1]
    carried = 8 << 20 >> 12
    moved, worker["swapped"] = worker["swapped"][:carried], worker["swapped"][carried:]
    worker["resident"] += [row[0] for row in moved]
    header["pages"] += len(moved)
    header["run"]["mem"] = 8 << 20
    (tmp_path / "foreign.kemu").write_bytes(put_together(header, pages + bytes(PAGE * len(moved))))
    assert main(["resume", str(tmp_path / "foreign.kemu"), "--server-dir", str(taken.server(tmp_path))]) == 2
    assert "which its memory could not hold" in capsys.readouterr().err


# ---- taking one


def job(directory, **options):
    """Make the first half of a small run, in this process."""
    return SnapshotJob(RunConfig(mem=MEM, server_dir=str(directory)), Watch(), at_pages=options.get("at_pages", 200), at_ns=None)


def test_at_the_quiet_point_nothing_is_in_flight(tmp_path):
    half = job(tmp_path)
    with half.pair as pair:
        half.take()
        client = pair.client
        flags = [page.flags for zone in client.page_alloc.zones for lru in (zone.inactive, zone.active) for page in lru]
        assert flags
        assert not any(flag & (PG_locked | PG_writeback) for flag in flags)
        assert all(client.processes.at_rest(task) for task in client.processes.running)
        assert len(pair.mount.xprt.free) == len(pair.mount.xprt.slots)
        now, frames = client.vmstat.pswpout, pair.client_net.stats.tx_frames
        pair.world.run(for_ns=300_000_000)
        assert (client.vmstat.pswpout, pair.client_net.stats.tx_frames - frames) == (now, 0)
        client.check()
        pair.client_net.check()


def test_a_page_that_is_wrong_already_is_not_carried(tmp_path):
    half = job(tmp_path)
    with half.pair as pair:
        half.swap_on()
        half.start_processes()
        half.load()
        half.come_to_rest()
        page = next(pte for pte in half.worker.mm.ptes.values() if isinstance(pte, Page))
        page.contents = b"!" * PAGE
        with pytest.raises(ConfigError, match="other bytes"):
            half._describe()
        assert pair.world.judge.outcome == "data_loss"


class Deserted(SnapshotJob):
    """The cable is pulled at the point that was asked for."""

    def come_to_rest(self) -> None:
        """Pull it first."""
        self.pair.stop_server("silent")
        super().come_to_rest()


def test_a_client_whose_server_is_away_is_not_written_and_says_why(tmp_path):
    half = Deserted(RunConfig(mem=MEM, server_dir=str(tmp_path)), Watch(), at_pages=200, at_ns=None)
    with half.pair, pytest.raises(ConfigError, match="does not come to rest: "):
        half.take()


def test_at_a_time_it_stops_soon_after(tmp_path):
    config = RunConfig(mem=MEM, server_dir=str(tmp_path))
    snapshot = take_snapshot(config, Watch(), lambda _: None, at_pages=None, at_ns=1_000_000_000)
    assert 1_000_000_000 <= snapshot.clock_ns < 3_000_000_000


def test_a_snapshot_that_cannot_be_written_leaves_no_swap_file(tmp_path):
    def full(_):
        raise ConfigError("No space left on device")

    with pytest.raises(ConfigError, match="No space left"):
        take_snapshot(RunConfig(mem=MEM, server_dir=str(tmp_path)), Watch(), full, at_pages=100, at_ns=None)
    assert list(tmp_path.iterdir()) == []


def test_where_it_may_not_be_written_is_said_before_anything_runs(tmp_path, capsys):
    (tmp_path / "c.kemu").write_bytes(b"mine")
    (tmp_path / "d").mkdir()
    words = ["--at-pages", "100", "--server-dir", str(tmp_path / "d")]
    assert main(["snapshot", *words, "-o", str(tmp_path / "c.kemu")]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "c.kemu").read_bytes() == b"mine"
    assert list((tmp_path / "d").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--at-pages", "9"], "--server-dir"),
        (["--server-dir", "."], "--at-pages"),
        (["--server-dir", ".", "--at-pages", "9", "--at", "1s"], "--at-pages"),
        (["--server-dir", ".", "--at-pages", "0"], "--at-pages"),
        (["--server-dir", ".", "--at", "25h"], "--at"),
        (["--server-dir", "no/such/place", "--at", "1s"], "no/such/place"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(words, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["snapshot", *words, "-o", "c.kemu"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err


def test_a_real_servers_disk_holds_the_pages_of_a_snapshot(tmp_path):
    with serving(tmp_path) as (url, _):
        config = RunConfig(mem=MEM, server=parse_server(url))
        snapshot = take_snapshot(config, Watch(), lambda _: None, at_pages=300, at_ns=None)
    data = (tmp_path / SWAP_FILE).read_bytes()
    swapped = [row for process in snapshot.processes for row in process.mm.swapped]
    assert swapped
    assert all(hashlib.sha256(data[slot * PAGE : (slot + 1) * PAGE]).digest() == digest for _, slot, digest in swapped)
