"""Test helper: write a capture of any ground, read it back, and ask tshark about it.

``with captured(path, net.wire, a=net.a, b=net.b): ...`` captures a block of a test; KEMU_PCAP=DIR captures whole tests (stacks.py).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import NamedTuple

import pytest

from kemu_lab.capture import capturing as captured

__all__ = ["captured", "needs_tshark", "read_pcapng", "tool", "tshark"]

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

CHECKSUMS = [word for each in ("ip", "tcp", "udp") for word in ("-o", f"{each}.check_checksum:TRUE")]
REASSEMBLE = ["-o", "tcp.reassemble_out_of_order:TRUE", "-o", "ip.defragment:TRUE"]
WRONG = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0"


class Packet(NamedTuple):
    """One enhanced packet block."""

    interface: int
    time: int
    frame: bytes
    comments: list[str]
    direction: int


def tool(*words) -> str:
    """Run one of Wireshark's tools and give what it prints."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True).stdout


def tshark(path, *words, fields=()) -> list[str]:
    """Give tshark's lines about a capture; with ``fields``, one tab between two values."""
    chosen = [word for field in fields for word in ("-e", field)]
    shape = ["-T", "fields", *chosen] if chosen else []
    return tool("tshark", "-n", "-2", "-r", path, *CHECKSUMS, *REASSEMBLE, *shape, *words).splitlines()


def _options(raw: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while True:
        code, size = struct.unpack_from("<HH", raw, at)
        if not code:
            assert at + 4 == len(raw), "options go on after their end"
            return found
        found.append((code, raw[at + 4 : at + 4 + size]))
        at += 4 + (size + 3 & ~3)


def read_pcapng(path) -> tuple[list[dict[int, bytes]], list[Packet]]:
    """Read the options of the interfaces, and all packets; the blocks' lengths must agree."""
    data = path.read_bytes()
    interfaces, packets, at = [], [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0 and struct.unpack_from("<I", data, at + length - 4)[0] == length
        body = data[at + 8 : at + length - 4]
        if kind == 0x0A0D0D0A:
            assert at == 0 and struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
        elif kind == 1:
            assert struct.unpack_from("<HHI", body) == (1, 0, 0)
            interfaces.append(dict(_options(body[8:])))
        else:
            assert kind == 6
            interface, high, low, size, original = struct.unpack_from("<IIIII", body)
            assert size == original
            options = _options(body[20 + (size + 3 & ~3) :])
            comments = [value.decode() for code, value in options if code == 1]
            (direction,) = struct.unpack("<I", dict(options)[2])
            packets.append(Packet(interface, high << 32 | low, body[20 : 20 + size], comments, direction))
        at += length
    return interfaces, packets
