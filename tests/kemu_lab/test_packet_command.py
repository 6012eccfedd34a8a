"""``kemu packet``: one line a script, and an exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captures import read_pcapng
from kemu_lab import packet_command
from kemu_lab.cli import main

GOOD = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n"
BAD = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n+0 close(3) = 1\n"
STRANGE = "0 epoll_create(1) = 3\n"
BROKEN = "0 socket(\n"


@pytest.fixture
def script(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_a_good_script(script, capsys):
    path = script("good.pkt", GOOD)
    assert main(["packet", path]) == 0
    assert capsys.readouterr().out == f"ok {path}\n"


def test_a_failure_says_file_and_line(script, capsys):
    path = script("bad.pkt", BAD)
    assert main(["packet", path]) == 1
    assert capsys.readouterr().out == f"FAILED {path}:2: close(3) returned 0, expected 1\n"


def test_what_is_not_supported_is_named_and_has_a_status_of_its_own(script, capsys):
    path = script("strange.pkt", STRANGE)
    assert main(["packet", path]) == 3
    assert capsys.readouterr().out.startswith(f"unsupported {path}:1: the system call epoll_create()")


def test_what_is_no_script(script, capsys):
    path = script("broken.pkt", BROKEN)
    assert main(["packet", path]) == 2
    assert capsys.readouterr().out.startswith(f"unreadable {path}:2: ")


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["packet", str(tmp_path / "none.pkt")]) == 2
    assert "cannot be read" in capsys.readouterr().out


def test_a_file_that_is_no_text(tmp_path, capsys):
    (tmp_path / "x.pkt").write_bytes(b"\xff\xfe")
    assert main(["packet", str(tmp_path / "x.pkt")]) == 2
    assert "no text" in capsys.readouterr().out


def test_a_directory_stands_for_its_scripts(script, tmp_path, capsys):
    for name, text in (("a.pkt", GOOD), ("b.pkt", BAD), ("c.pkt", STRANGE), ("d.txt", BROKEN)):
        script(name, text)
    assert main(["packet", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 ok, 1 failed, 1 unsupported"


def test_an_empty_directory(tmp_path, capsys):
    assert main(["packet", str(tmp_path)]) == 2
    assert "no *.pkt" in capsys.readouterr().err


def test_json(script, capsys):
    assert main(["packet", "--json", script("a.pkt", GOOD), script("b.pkt", BAD)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"ok": 1, "failed": 1, "unsupported": 0, "unreadable": 0}
    assert told["scripts"][1]["reason"] == "close(3) returned 0, expected 1"


def test_define(script):
    path = script("a.pkt", "0 socket(..., KIND, 0) = 3\n")
    assert main(["packet", "--define", "KIND=SOCK_DGRAM", path]) == 0
    assert main(["packet", "--define", "KIND", path]) == 2


def test_patches_are_those_of_run(script):
    path = script("a.pkt", GOOD)
    assert main(["packet", "--patches", "none", path]) == 0
    assert main(["packet", "--patches", "nonsense", path]) == 2


def test_verbose_prints_notes(script, capsys):
    path = script("a.pkt", f"`tc qdisc add`\n{GOOD}")
    assert main(["packet", "--verbose", path]) == 0
    assert "does nothing here" in capsys.readouterr().out


def test_a_script_can_leave_a_capture(tmp_path):
    script = min((Path(__file__).parents[1] / "packets").rglob("*.pkt"))
    path = tmp_path / "x.pcapng"
    assert main(["packet", "--pcap", str(path), str(script)]) == 0
    interfaces, packets = read_pcapng(path)
    assert [each[2] for each in interfaces] == [b"kemu"]
    assert {packet.direction for packet in packets} == {1, 2}


def test_a_capture_is_of_one_script(tmp_path, capsys):
    (tmp_path / "a.pkt").write_text("")
    (tmp_path / "b.pkt").write_text("")
    assert main(["packet", "--pcap", str(tmp_path / "x"), str(tmp_path)]) == 2
    assert "of one script, not of 2" in capsys.readouterr().err


def test_a_defect_of_kemu_in_one_script_does_not_end_the_others(script, tmp_path, capsys, monkeypatch):
    for name in ("a.pkt", "b.pkt"):
        script(name, GOOD)
    real = packet_command.play_script

    def broken(text, name, **options):
        if name.endswith("a.pkt"):
            raise IndexError("list index out of range")
        return real(text, name, **options)

    monkeypatch.setattr(packet_command, "play_script", broken)
    assert main(["packet", str(tmp_path)]) == 1
    first, second, _summary = capsys.readouterr().out.splitlines()
    assert first == f"FAILED {tmp_path}/a.pkt: a defect of kemu: IndexError: list index out of range"
    assert second == f"ok {tmp_path}/b.pkt"
