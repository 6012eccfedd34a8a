"""What is on the wire is what Wireshark expects: right checksums, nothing malformed. Needs tshark (Debian package tshark)."""

import shutil
import struct
import subprocess

import pytest

from kemu.patches import PatchSet
from kemu_lab.progress import Watch
from kemu_lab.run_config import RunConfig
from kemu_lab.scenarios.main_job import MainJob

pytestmark = [
    pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed"),
    pytest.mark.xdist_group("wireshark"),
]

CHECKSUMS = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Write the frames of a short run as a classic pcap file with nanoseconds."""
    path = tmp_path_factory.mktemp("wire") / "run.pcap"
    job = MainJob(RunConfig(patches=PatchSet.parse("all,-19")), Watch())
    frames = []
    job.pair.wire.taps.append(lambda time, frame: frames.append((time, frame)))
    with job.pair:
        job.run()
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
        for time, frame in sorted(frames, key=lambda item: item[0]):
            file.write(struct.pack("<IIII", time // 10**9, time % 10**9, len(frame), len(frame)) + frame)
    return path


def tshark(path, *words):
    done = subprocess.run(["tshark", "-n", "-r", str(path), *CHECKSUMS, *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_nothing_is_malformed_and_every_checksum_is_right(capture):
    wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0"

    assert tshark(capture, "-Y", wrong) == []


def test_wireshark_reads_the_nfs_calls(capture):
    words = ["-T", "fields", "-e", "nfs.procedure_v3", "-Y", "nfs && rpc.msgtyp == 0"]
    procedures = [int(word) for line in tshark(capture, *words) for word in line.split(",") if word]

    assert procedures.count(7) > 1000  # WRITE
    assert {19, 1, 8, 2, 3, 6} <= set(procedures)  # FSINFO, GETATTR, CREATE, SETATTR, LOOKUP, READ
