"""A TAP device at the far end: what it needs, what it refuses, and how time goes there."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kemu.errors import ConfigError
from kemu_lab import tap_link
from kemu_lab.hosts import Pair
from kemu_lab.run_config import RunConfig
from kemu_lab.server_url import ServerUrl
from kemu_lab.tap_link import check_free
from real_ground import assert_whole
from tap_ground import why_no_tap

CHILD = Path(__file__).parents[1] / "lib" / "tap_link_child.py"
SECONDS = 60
ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


@pytest.fixture
def case(tmp_path):
    """Run one case in a namespace of its own."""
    if why_no_tap():
        pytest.skip(why_no_tap())

    def run(name):
        words = ["unshare", "-n", sys.executable, str(CHILD), name, str(tmp_path)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


def test_pages_travel_over_real_tcp_to_a_server_on_all_addresses(case):
    assert_whole(case("all_addresses"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loopback_only", "the TAP device's address; --via tap needs a server that listens on all addresses"),
        ("in_use", "--via tap needs the network 10.0.0.0/16, and other0 has it here; use a namespace: unshare -n"),
        ("not_root", "root"),
        ("not_there", "port 1 of 127.0.0.1"),
    ],
)
def test_what_it_cannot_do_is_one_sentence_and_leaves_nothing_open(case, name, said):
    result = case(name)
    assert (result["status"], result["out"]) == (2, "")
    assert said in result["err"] and result["err"].count("\n") == 1
    assert result["open"] == result["before"]


def test_a_flood_of_frames_does_not_let_virtual_time_run_ahead(case):
    result = case("flood")
    assert result["frames"] > 500
    assert result["lead"] < 0.01
    assert result["virtual"] <= result["real"] + 0.01


def test_only_this_machine_is_at_the_other_end():
    url = ServerUrl("192.0.2.1", 1, 1, "/export", "nfs://192.0.2.1:1/export")
    with pytest.raises(ConfigError, match="only this machine is at the device's other end"):
        Pair(RunConfig(server=url, via="tap"))


@pytest.mark.parametrize(
    ("address", "mask", "free"),
    [
        ("0.0.0.0", "0.0.0.0", True),  # the default route is for whatever nobody has
        ("192.168.0.0", "255.255.0.0", True),
        ("10.1.0.0", "255.255.0.0", True),
        ("10.0.0.0", "255.0.0.0", False),
        ("10.0.7.0", "255.255.255.0", False),
        ("10.0.0.1", "255.255.255.255", False),
    ],
)
def test_a_network_is_free_when_no_route_leads_into_it(monkeypatch, tmp_path, address, mask, free):
    table = tmp_path / "route"

    def word(dotted):
        return f"{int.from_bytes(ipaddress.IPv4Address(dotted).packed, sys.byteorder):08X}"

    table.write_text(f"{ROUTES}eth0\t{word(address)}\t00000000\t0001\t0\t0\t0\t{word(mask)}\t0\t0\t0\n")
    monkeypatch.setattr(tap_link, "ROUTES", table)
    network = ipaddress.IPv4Network("10.0.0.0/16")
    if free:
        check_free(network)
    else:
        with pytest.raises(ConfigError, match="and eth0 has it here"):
            check_free(network)


def test_without_a_route_table_the_kernel_decides(monkeypatch, tmp_path):
    monkeypatch.setattr(tap_link, "ROUTES", tmp_path / "nosuch")
    check_free(ipaddress.IPv4Network("10.0.0.0/16"))
