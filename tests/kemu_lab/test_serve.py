"""``kemu serve`` as a person starts it: its one line, its refusals, its end; and libnfs's programs as its clients."""

from __future__ import annotations

import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from kemu_lab.cli import main
from kemu_nfs.server.record_marking import RecordReader, frame
from nfs_speaker import Client

SECONDS = 60
TOOLS = ("nfs-ls", "nfs-cp", "nfs-cat")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
with_libnfs = pytest.mark.skipif(bool(MISSING), reason=f"libnfs-utils is not installed: {', '.join(MISSING)} not found")


class Served:
    """A directory that a process of its own serves."""

    def __init__(self, path, *options):
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kemu_lab.cli", "serve", str(path), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        self.line = self.process.stdout.readline() if ready else ""
        found = re.search(r"nfs://127\.0\.0\.1/(\S*)\?version=3&nfsport=(\d+)&mountport=(\d+)", self.line)
        if not found:
            self.process.kill()
            raise AssertionError(self.line + self.process.communicate(timeout=SECONDS)[1])
        self.export, self.port, self.mountport = found[1], int(found[2]), int(found[3])

    def url(self, name=""):
        return f"nfs://127.0.0.1/{self.export}{name}?version=3&nfsport={self.port}&mountport={self.mountport}"

    def tool(self, *words):
        return subprocess.run([*words], check=False, capture_output=True, timeout=SECONDS)

    def end(self):
        """Interrupt it; return (exit status, the rest of what it printed, errors)."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


@contextmanager
def serving(path, *options):
    served = Served(path, *options)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for all tests that only talk to it."""
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served
        assert served.process.poll() is None


def ask(port, record):
    """Send one call to a port and return the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sk:
        sk.sendall(frame(record))
        reader = RecordReader(1 << 16)
        while True:
            data = sk.recv(65536)
            assert data
            found = reader.feed(data)
            if found:
                return found[0]


def test_one_line_tells_where_it_is(served):
    assert served.line == f"{served.path} is served on {served.url()} (Ctrl-C ends it)\n"
    assert served.port == served.mountport != 0
    assert served.export == "export"
    speaker = Client(None)
    assert ask(served.port, speaker.record(0))[20:24] == bytes(4)
    assert ask(served.port, speaker.record(0, prog=100005))[20:24] == bytes(4)


def test_it_listens_on_loopback_only(served):
    """What /proc/net/tcp says: the address of each socket that listens on its port."""
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123 # a file of the kernel
        locals_ = [line.split()[1] for line in list(table)[1:]]
    assert {local for local in locals_ if local.endswith(f":{served.port:04X}")} == {f"0100007F:{served.port:04X}"}


def test_interrupting_it_is_the_way_to_end_it(tmp_path):
    (tmp_path / "f").write_bytes(b"data")
    with serving(tmp_path, "--mountport", "0", "--export", "/a/b", "--read-only") as served:
        assert served.export == "a/b"
        assert served.port != served.mountport
        speaker = Client(None)
        reply = ask(served.mountport, speaker.record(1, speaker.opaque(b"/a/b"), prog=100005))
        handle = reply[32:64]
        args = speaker.opaque(handle) + speaker.opaque(b"new") + speaker.words(0) + speaker.sattr()
        assert ask(served.port, speaker.record(8, args))[24:28] == (30).to_bytes(4, "big")  # ROFS
        assert served.end() == (0, "\n2 calls\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nothing/there"], "the directory '/nothing/there' cannot be served: No such file or directory"),
        (["{dir}/file"], "cannot be served: Not a directory"),
        (["{dir}", "--port", "65536"], "--port '65536' cannot be used; it is a whole number from 0 to 65535"),
        (["{dir}", "--port", "nfs"], "--port 'nfs' cannot be used"),
        (["{dir}", "--port", "0", "--mountport", "-1"], "--mountport '-1' cannot be used"),
        (["{dir}", "--address", "0.0.0.0"], "--allow-remote"),
        (["{dir}", "--address", "localhost"], "--address 'localhost' is no IPv4 address"),
        (["{dir}", "--address", "127.0.0.256"], "is no IPv4 address"),
        (["{dir}", "--port", "0", "--export", "relative"], "an export is an absolute path"),
        (["{dir}", "--address", "192.0.2.1", "--allow-remote", "--port", "0"], "cannot be listened on"),
        (["{dir}", "--port", "{taken}"], "cannot be listened on: Address already in use"),
        ([], "Missing argument 'DIR'"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, capsys, words, said):
    (tmp_path / "file").write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", *(word.format(dir=tmp_path, taken=port) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("kemu: ") and err.count("\n") == 1


def test_its_help_has_examples(capsys):
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert "nfs-cp page" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "nfs://" not in line)


# libnfs


def data_of(size):
    """Bytes that tell every place from every other."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


@with_libnfs
def test_libnfs_lists(served):
    (served.path / "listed").mkdir()
    for number in range(300):
        (served.path / "listed" / f"file-{number}").write_bytes(bytes(number))
    (served.path / "listed" / "below").mkdir()
    done = served.tool("nfs-ls", served.url("/listed"))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert {line[-1] for line in lines} == {f"file-{number}" for number in range(300)} | {"below"}
    assert {line[-1]: int(line[-2]) for line in lines if line[-1] != "below"} == {f"file-{n}": n for n in range(300)}
    shutil.rmtree(served.path / "listed")


@with_libnfs
def test_libnfs_copies_there_and_back(served, tmp_path):
    """Sizes around blocks, around rsize, and of many READs."""
    for size in (0, 4, 4096, 32764, 32768, 100_000, 3_000_000):
        here, there, back = tmp_path / "here", served.path / "copy", tmp_path / "back"
        here.write_bytes(data_of(size))
        done = served.tool("nfs-cp", str(here), served.url("/copy"))
        assert done.returncode == 0, done.stderr
        assert there.read_bytes() == here.read_bytes()
        done = served.tool("nfs-cp", served.url("/copy"), str(back))
        assert done.returncode == 0, done.stderr
        assert back.read_bytes() == here.read_bytes()
        for path in (there, back):
            path.unlink()


@with_libnfs
def test_libnfs_shows(served):
    (served.path / "shown").write_bytes(data_of(200_000))
    done = served.tool("nfs-cat", served.url("/shown"))
    assert (done.returncode, done.stdout) == (0, data_of(200_000))


@with_libnfs
def test_libnfs_is_told_what_is_not_there(served):
    done = served.tool("nfs-cat", served.url("/nothing"))
    assert done.returncode != 0
    assert served.process.poll() is None


@with_libnfs
def test_libnfs_goes_on_after_a_restart_on_the_same_port(tmp_path):
    """What a client copied to the one process it finds in the next."""
    (tmp_path / "served").mkdir()
    (tmp_path / "here").write_bytes(data_of(50_000))
    with serving(tmp_path / "served") as first:
        assert first.tool("nfs-cp", str(tmp_path / "here"), first.url("/f")).returncode == 0
        assert first.end()[0] == 0
    with serving(tmp_path / "served", "--port", str(first.port)) as second:
        done = second.tool("nfs-cat", second.url("/f"))
        assert (second.port, done.stdout) == (first.port, data_of(50_000))


def test_a_client_that_says_nothing_does_not_keep_it_from_others(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as silent:
        silent.sendall(b"\x80\x00\x00\x28half")
        began = time.monotonic()
        assert ask(served.port, Client(None).record(0))[20:24] == bytes(4)
        assert time.monotonic() - began < SECONDS / 2
