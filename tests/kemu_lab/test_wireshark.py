"""What is on the wire is what Wireshark expects: right checksums, nothing malformed, every call answered. Needs tshark."""

from __future__ import annotations

import pytest

from captures import WRONG, captured, needs_tshark, tool, tshark
from kemu.patches import PatchSet
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig
from net_ground import IP_A, IP_B, two_hosts
from nfs_ground import SECOND, mounted, page_bytes

pytestmark = [needs_tshark, pytest.mark.xdist_group("wireshark")]

PAGES = 120
FAULTS = {
    "loss": {"loss": 0.05},
    "reorder": {"reorder": 0.1},
    "duplicate": {"duplicate": 0.1},
    "corrupt": {"corrupt": 0.05},
    "all": {"loss": 0.03, "reorder": 0.05, "duplicate": 0.05, "corrupt": 0.03},
}
CORRUPTED = 'frame.comment contains "corrupted"'
REFUSED = f'{CORRUPTED} && frame.comment contains "dropped"'


def swap_out_and_in(path, **wire):
    """Capture a mount whose swap file takes pages and gives them back."""
    with mounted(wire={"seed": 3, **wire}) as ground, captured(path, ground.wire, client=ground.stack, server=ground.server_stack):
        ground.process(PAGES)
        ground.swapon(2 * PAGES)
        for vpn in range(PAGES):
            ground.write(vpn, page_bytes(vpn))
        for vpn in range(PAGES):
            ground.swap_out(vpn)
        for vpn in range(PAGES):
            assert ground.read(vpn) == page_bytes(vpn)
        ground.wait_for_calls()
        ground.run_for(SECOND)
        return ground.server_stack.stats.retransmits + ground.stack.stats.retransmits


def messages(path, kind):
    """Give the xids of all calls (0) or replies (1)."""
    lines = tshark(path, "-Y", "rpc", fields=["rpc.msgtyp", "rpc.xid"])
    found = []
    for line in lines:
        kinds, xids = (part.split(",") for part in line.split("\t"))
        found += [xid for each, xid in zip(kinds, xids, strict=True) if each == str(kind)]
    return found


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Capture a run without faults."""
    path = tmp_path_factory.mktemp("wire") / "clean.pcapng"
    assert swap_out_and_in(path) == 0
    return path


@pytest.fixture(scope="module", params=FAULTS)
def spoilt(request, tmp_path_factory):
    """Capture a run over a bad cable; what was corrupted and refused is left out, as for the two kernels."""
    path = tmp_path_factory.mktemp("wire") / f"{request.param}.pcapng"
    swap_out_and_in(path, **FAULTS[request.param])
    tool("tshark", "-n", "-r", path, "-Y", f"!({REFUSED})", "-w", path.with_suffix(".kept"))
    return path.with_suffix(".kept")


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """Capture the main job without patch 19; it ends early."""
    path = tmp_path_factory.mktemp("wire") / "main.pcapng"
    run_scenario(RunConfig(patches=PatchSet.parse("all,-19"), pcap=str(path)))
    return path


def test_a_clean_run_has_nothing_malformed_and_only_right_checksums(clean):
    assert tshark(clean, "-Y", WRONG) == []


def test_in_a_clean_run_every_call_is_answered_once(clean):
    calls, replies = messages(clean, 0), messages(clean, 1)
    assert len(calls) == len(set(calls)) > 2 * PAGES
    assert sorted(calls) == sorted(replies)


def test_in_a_clean_run_wireshark_suspects_nothing_of_tcp(clean):
    """No retransmission, no lost or unseen segment, nothing out of order."""
    suspect = (
        "tcp.analysis.retransmission || tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment || tcp.analysis.out_of_order"
    )
    assert tshark(clean, "-Y", suspect) == []


def test_the_frames_of_both_machines_are_there_in_order(clean):
    told = tool("capinfos", "-M", clean)
    assert "Strict time order:   True" in told and "Number of interfaces in file: 2" in told
    for name in ("client", "server"):
        assert len(tshark(clean, "-Y", f'frame.interface_name == "{name}"')) > PAGES


def test_classic_pcap_can_be_made_of_it(clean, tmp_path):
    tool("editcap", "-F", "nsecpcap", clean, tmp_path / "classic.pcap")
    assert tshark(tmp_path / "classic.pcap", "-Y", WRONG) == []


def test_what_came_over_a_bad_cable_and_was_taken_is_right(spoilt):
    assert tshark(spoilt, "-Y", WRONG) == []


def test_over_a_bad_cable_every_call_is_answered(spoilt):
    calls = messages(spoilt, 0)
    assert len(calls) > 2 * PAGES
    assert set(calls) == set(messages(spoilt, 1))


def test_what_wireshark_finds_wrong_is_what_the_wire_corrupted_and_the_machine_refused(tmp_path):
    path = tmp_path / "x.pcapng"
    swap_out_and_in(path, corrupt=0.05)
    # a segment that comes again after a corrupted one is not wrong, but does not fit to what Wireshark has kept of that
    wrong = tshark(path, "-Y", f"({WRONG}) && !tcp.analysis.retransmission", fields=["frame.number"])
    refused = tshark(path, "-Y", REFUSED, fields=["frame.number"])
    assert len(wrong) > 10
    assert set(wrong) <= set(refused)


def test_fragments_are_reassembled(tmp_path):
    path = tmp_path / "x.pcapng"
    with two_hosts() as net, captured(path, net.wire, a=net.a, b=net.b):
        net.greet()
        sk, out = net.b.socket(7), net.a.socket(9)
        assert net.a.udp.sendto(out, b"f" * 5000, IP_B, 7) == 5000
        net.run(5)
        assert net.b.udp.recvfrom(sk, nonblock=True)[0] == b"f" * 5000
        net.a.udp.close(out)
        net.b.udp.close(sk)
    assert tshark(path, "-Y", "ip.fragment.error || " + WRONG) == []
    assert tshark(path, "-Y", "ip.fragment.count", fields=["ip.fragment.count", "udp.length"]) == ["4\t5008"]


def test_an_icmp_error_quotes_what_wireshark_can_read(tmp_path):
    path = tmp_path / "x.pcapng"
    with two_hosts() as net, captured(path, net.wire, a=net.a, b=net.b):
        net.greet()
        out = net.b.socket(9)
        net.b.udp.sendto(out, b"nobody", IP_A, 12)
        net.run(5)
        net.b.udp.close(out)
    assert tshark(path, "-Y", WRONG) == []
    assert tshark(path, "-Y", "icmp.type == 3", fields=["icmp.code", "udp.dstport"]) == ["3\t12"]


def test_the_main_job_has_nothing_malformed_and_only_right_checksums(main_job):
    assert tshark(main_job, "-Y", WRONG) == []


def test_wireshark_reads_the_nfs_calls_of_the_main_job(main_job):
    lines = tshark(main_job, "-Y", "nfs && rpc.msgtyp == 0", fields=["nfs.procedure_v3"])
    procedures = [int(word) for line in lines for word in line.split(",") if word]
    assert procedures.count(7) > 1000  # WRITE
    assert {19, 20, 8, 2, 3, 6} <= set(procedures)  # FSINFO, PATHCONF, CREATE, SETATTR, LOOKUP, READ


def test_the_main_job_s_comments_can_be_filtered(main_job):
    assert len(tshark(main_job, "-Y", 'frame.comment contains "dry ring"')) > 10
