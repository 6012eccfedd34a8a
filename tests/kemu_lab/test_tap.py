"""The emulated NIC on a TAP device, in a network namespace that each test makes and that ends with its process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kemu.errors import ConfigError
from kemu_lab import tap
from kemu_lab.cli import main
from tap_ground import why_no_tap

CHILD = Path(__file__).parents[1] / "lib" / "tap_child.py"
SECONDS = 60


@pytest.fixture
def talk(tmp_path):
    """Run one case in a namespace of its own."""
    if why_no_tap():
        pytest.skip(why_no_tap())

    def run(case, pcap=""):
        words = ["unshare", "-n", sys.executable, str(CHILD), case, *([str(pcap)] if pcap else [])]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["left"] == 0
        assert "10.99.0.2" in result["arp"] and "02:00:00:00:00:fe" in result["arp"]  # ARP, seen by the real kernel
        return result

    return run


def test_linux_pings_kemu(talk):
    assert talk("ping_in")["answers"] == [0, 1, 2]


def test_kemu_pings_linux(talk):
    assert talk("ping_out")["answers"] == [0, 1, 2]


@pytest.mark.parametrize("role", ["connect", "listen"])
def test_a_mebibyte_each_way_over_a_connection_to_a_real_socket(talk, role):
    result = talk(role)
    assert result["to_linux"] and result["to_kemu"], result
    assert "error" not in result
    assert result["lost"] == 0


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_wireshark_finds_no_fault_with_either_kernel(talk, tmp_path):
    path = tmp_path / "tap.pcapng"
    talk("connect", path)
    checks = [word for each in ("ip", "tcp") for word in ("-o", f"{each}.check_checksum:TRUE")]
    wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || tcp.analysis.retransmission"
    done = subprocess.run(["tshark", "-n", "-r", str(path), *checks, "-Y", wrong], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_without_the_device_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(tap, "TUN_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(ConfigError, match="cannot be opened: No such file or directory; a TAP device needs Linux and root"):
        tap.open_tap("kemu0")


@pytest.mark.parametrize("name", ["", "a-name-that-is-too-long"])
def test_a_device_needs_a_name_that_fits(name):
    with pytest.raises(ConfigError, match="1 to 15 bytes"):
        tap.open_tap(name)


@pytest.mark.parametrize(
    "words",
    [
        "--ip 10.0.0",
        "--ip 224.0.0.1",
        "--ip 127.0.0.1",
        "--peer x",
        "--peer 10.98.0.1",
        "--peer 10.99.0.2",
        "--seconds 0",
        "--seconds x",
        "--pcap /nonexistent/x",
        "nosuch",
    ],
)
def test_wrong_use_is_one_sentence(words, capsys):
    assert main(["tap", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("kemu: ") and err.count("\n") == 1


def test_the_verb_serves_for_a_while():
    if why_no_tap():
        pytest.skip(why_no_tap())
    words = ["unshare", "-n", sys.executable, "-m", "kemu_lab.cli", "tap", "--seconds", "0.2"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS, cwd=CHILD.parents[2])
    assert done.returncode == 0, done.stderr
    assert "ping 10.99.0.2" in done.stdout and "received" in done.stdout
