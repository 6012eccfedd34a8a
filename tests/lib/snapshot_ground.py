"""Test helper: snapshots made by hand, and their files taken apart and put together again, without the code that is tested."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

from kemu.mm.mm_image import MmImage
from kemu_lab.contents import Pattern
from kemu_lab.snapshot_file import ProcessImage, Snapshot

MAGIC = b"kemu-snapshot 1\n"
PAGE = 4096
HEADER_AT = len(MAGIC) + 8
READER = {"kind": "SleepingReader", "pages": 2, "cursor": 4}
WORKER = {"kind": "FillThenRead", "pages": 6, "reads": 9, "grown": 6, "written": 5, "read": 0, "done": 0}
RUN = {
    "scenario": "main",
    "mem": 12 << 20,
    "cpus": 1,
    "seed": 1,
    "patches": "all",
    "fixes": "all",
    "loss": "0.0",
    "latency_ns": 50_000,
    "mtu": 1500,
    "nic": "",
    "fill": None,
    "swap_ops": "writepage",
}


def page(vpn: int) -> bytes:
    """Give what a program wrote there."""
    return Pattern(1).page(vpn, 1)


def digest(vpn: int) -> bytes:
    """Give the sha256 of that."""
    return hashlib.sha256(page(vpn)).digest()


def small() -> Snapshot:
    """Make a snapshot of a sleeper and a worker in the middle of its writes."""
    sleeper = MmImage(2, [(1, page(1))], [(0, 7, digest(0))])
    worker = MmImage(6, [(3, page(3)), (0, page(0))], [(vpn, 10 + vpn, digest(vpn)) for vpn in (1, 2, 4)])
    return Snapshot(
        run=dict(RUN),
        clock_ns=1_500_000_000,
        swap_file="swapfile",
        swap_pages=64,
        processes=[
            ProcessImage("reader0", 0, dict(READER), True, sleeper),
            ProcessImage("worker", 0, dict(WORKER), False, worker),
        ],
        sockets=[(40000, [bytes(range(60)), bytes(14)]), (40001, [])],
        story={"next_burst": 4000},
        counters={"pswpout": 4},
    )


def take_apart(data: bytes) -> tuple[Any, bytes]:
    """Read a file as docs/snapshot.md describes it: the header, and the contents of its pages."""
    assert data[: len(MAGIC)] == MAGIC
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    end = HEADER_AT + int.from_bytes(data[len(MAGIC) : HEADER_AT], "big")
    return json.loads(data[HEADER_AT:end]), zlib.decompress(data[end:-32])


def seal(text: bytes, packed: bytes, *, magic: bytes = MAGIC, size: int | None = None) -> bytes:
    """Put a file together around a header and packed pages; its checksum is right whatever they are."""
    data = magic + (len(text) if size is None else size).to_bytes(8, "big") + text + packed
    return data + hashlib.sha256(data).digest()


def put_together(header: Any, pages: bytes) -> bytes:
    """Put a file together; its checksum is right whatever the header says."""
    return seal(json.dumps(header, sort_keys=True, separators=(",", ":")).encode(), zlib.compress(pages, 6))
