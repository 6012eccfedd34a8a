"""The scripts of tests/packets: each makes one claim in its first line, and each claim holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from kemu_net.testing.packetdrill import FAILED, OK, play_script

PACKETS = Path(__file__).parents[2] / "packets"
SCRIPTS = sorted(PACKETS.glob("*.pkt"))


def _play(name, **options):
    return play_script((PACKETS / f"{name}.pkt").read_text(), name, **options)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_its_claim_holds(path):
    result = play_script(path.read_text(), path.name)
    assert (result.status, result.where, result.reason) == (OK, "", "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_its_first_line_makes_a_claim(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("// ") and first.endswith((".", ",", ":", ";")) and len(first) > 20


def test_there_are_as_many_as_the_matter_needs():
    assert len(SCRIPTS) >= 80


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_the_calls_return_is_right_without_looking_at_packets(path):
    result = play_script(path.read_text(), path.name, stimulus=True)
    assert (result.status, result.where, result.reason) == (OK, "", "")


def test_without_patch_20_an_emergency_segment_is_taken_by_any_socket():
    result = _play("emergency-drop", patches="all,-20")
    assert result.status == FAILED
    assert "wire.pending" in result.reason


@pytest.mark.parametrize("name", ["emergency-drop", "emergency-swap", "emergency-datagram"])
@pytest.mark.parametrize("patches", ["all,-16", "all,-18", "all,-19", "none"])
def test_without_a_reserve_that_pays_there_are_no_emergency_packets(name, patches):
    result = _play(name, patches=patches)
    assert result.status == FAILED
    assert "reserve.usage is 0" in result.reason or "'socket': 0" in result.reason


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_without_any_patch_only_the_emergencies_are_missing(path):
    result = play_script(path.read_text(), path.name, patches="none", fixes="none")
    assert (result.status == OK) is not path.stem.startswith("emergency-")


def test_a_datagram_rests_in_any_socket_without_patch_20():
    assert "'socket': 0" in _play("emergency-datagram", patches="all,-20").reason


def test_the_same_script_takes_the_same_time_again():
    first, second = _play("rto-backoff"), _play("rto-backoff")
    assert first == second
