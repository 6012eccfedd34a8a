"""The file of a snapshot: bytes to a checked :class:`Snapshot` and back (docs/snapshot.md).

Interface
    encode(snapshot) -> bytes          decode(data, name) -> Snapshot
    write_file(path, data, force)      read_file(path)

Rules of this file
    * Data, never code: a line of text, a header in JSON, the contents of pages in one zlib stream, a sha256 over all of it.
    * Whatever the bytes are, decode() returns a snapshot that can be resumed, or raises one :exc:`ConfigError`. Nothing is
      allocated by what a number in the file says before that number was held against a limit.
    * What is impossible is refused here, before anything boots: a page twice, a slot twice, a slot outside of its area.
    * A file is written under another name and renamed, so that a snapshot is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs

from kemu.errors import ConfigError
from kemu.mm.mm_image import MmImage
from kemu.mm.swapops import SWP_OFFSET_MASK, SWP_TYPE_SHIFT

MAGIC = b"kemu-snapshot 1\n"
PAGE_SIZE = 4096
DIGEST = 32
MAX_HEADER = 1 << 28
MAX_PROCESSES = 1 << 12
MAX_PAGES = 1 << 24  # 64 GiB
MAX_CLOCK_NS = 48 * 3600 * 10**9  # resume must let all of it pass
MAX_COUNT = 1 << 62
MAX_SOCKETS = 1 << 12
MIN_FRAME, MAX_FRAME = 14, 1 << 14
MAX_FRAMES = 1 << 16
MAX_NAME = 255


@attrs.define
class ProcessImage:
    """One process.

    :ivar program: what it runs: a kind and its numbers (program_data.py).
    :ivar asleep: it sleeps until somebody wakes it.
    """

    comm: str
    uid: int
    program: dict[str, Any]
    asleep: bool
    mm: MmImage


@attrs.define
class Snapshot:
    """A client at a quiet point.

    :ivar run: the options of the run, by their names on the command line.
    :ivar clock_ns: virtual time.
    :ivar swap_pages: pages of the swap file, header included.
    :ivar sockets: (port, the frames of datagrams that nobody has read).
    :ivar story: what the scenario wants to remember; ``counters``: what was counted until now.
    """

    run: dict[str, Any]
    clock_ns: int
    swap_file: str
    swap_pages: int
    processes: list[ProcessImage]
    sockets: list[tuple[int, list[bytes]]]
    story: dict[str, int]
    counters: dict[str, int]


def encode(snapshot: Snapshot) -> bytes:
    """Write a snapshot."""
    pages: list[bytes] = []
    header = {
        "run": snapshot.run,
        "clock_ns": snapshot.clock_ns,
        "swap": {"file": snapshot.swap_file, "pages": snapshot.swap_pages},
        "processes": [_process(process, pages) for process in snapshot.processes],
        "sockets": [{"port": port, "frames": [frame.hex() for frame in frames]} for port, frames in snapshot.sockets],
        "story": snapshot.story,
        "counters": snapshot.counters,
        "pages": sum(len(process.mm.resident) for process in snapshot.processes),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    body = zlib.compress(b"".join(pages), 6)
    data = MAGIC + len(text).to_bytes(8, "big") + text + body
    return data + sha256(data).digest()


def _process(process: ProcessImage, pages: list[bytes]) -> dict[str, Any]:
    """Write one process; the contents of its pages go to the end of the file."""
    pages += [data for _, data in process.mm.resident]
    return {
        "comm": process.comm,
        "uid": process.uid,
        "program": process.program,
        "asleep": process.asleep,
        "brk": process.mm.brk,
        "resident": [vpn for vpn, _ in process.mm.resident],
        "swapped": [
            [vpn, entry >> SWP_TYPE_SHIFT, entry & SWP_OFFSET_MASK, digest.hex()] for vpn, entry, digest in process.mm.swapped
        ],
    }


class _Reader:
    """Takes values out of JSON and holds each against what it must be."""

    def __init__(self, name: str) -> None:
        self.name = name

    def bad(self, what: str) -> ConfigError:
        """Say in one sentence what is wrong with the file."""
        return ConfigError(f"{self.name} cannot be resumed: {what}")

    def of(self, value: Any, key: str, kind: type) -> Any:
        """Take a member of an object."""
        if not isinstance(value, dict) or key not in value:
            raise self.bad(f"its header has no {key!r} where one belongs")
        found = value[key]
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise self.bad(f"{key!r} in its header is not what it should be")
        return found

    def number(self, value: Any, key: str, low: int, high: int) -> int:
        """Take a whole number within limits."""
        return self.within(self.of(value, key, int), key, low, high)

    def within(self, number: Any, key: str, low: int, high: int) -> int:
        """Hold a number against its limits."""
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise self.bad(f"{key!r} in its header is no number from {low} to {high}")
        return number

    def text(self, value: Any, key: str) -> str:
        """Take a name."""
        found: str = self.of(value, key, str)
        if (
            not 0 < len(found.encode(errors="replace")) <= MAX_NAME
            or not found.isprintable()
            or "/" in found
            or found in (".", "..")
        ):
            raise self.bad(f"{key!r} in its header is no name")
        return found

    def hexadecimal(self, value: Any, key: str, limit: int) -> bytes:
        """Read bytes that are written as hexadecimal digits."""
        try:
            found = bytes.fromhex(value)
        except (TypeError, ValueError):
            raise self.bad(f"{key!r} in its header is not written in hexadecimal digits") from None
        if len(found) > limit:
            raise self.bad(f"{key!r} in its header is too long")
        return found

    def numbers(self, value: Any, key: str) -> dict[str, int]:
        """Take an object whose members are all numbers."""
        found = self.of(value, key, dict)
        return {name: self.within(number, name, 0, MAX_COUNT) for name, number in found.items()}


def decode(data: bytes, name: str) -> Snapshot:
    """Read a snapshot; ``name`` is the file's, for messages."""
    read = _Reader(name)
    header, body = _frame(read, data)
    swap = read.of(header, "swap", dict)
    swap_pages = read.number(swap, "pages", 2, MAX_PAGES)
    processes = read.of(header, "processes", list)
    if len(processes) > MAX_PROCESSES:
        raise read.bad(f"it has more than {MAX_PROCESSES} processes")
    count = sum([len(read.of(process, "resident", list)) for process in processes])
    if count != read.number(header, "pages", 0, MAX_PAGES):
        raise read.bad("the number of its pages is not the number of pages that its processes have")
    contents = _contents(read, body, count)
    slots: dict[int, bool] = {}
    images = [_read_process(read, process, swap_pages, slots, contents) for process in processes]
    return Snapshot(
        run=read.of(header, "run", dict),
        clock_ns=read.number(header, "clock_ns", 0, MAX_CLOCK_NS),
        swap_file=read.text(swap, "file"),
        swap_pages=swap_pages,
        processes=images,
        sockets=_read_sockets(read, read.of(header, "sockets", list)),
        story=read.numbers(header, "story"),
        counters=read.numbers(header, "counters"),
    )


def _frame(read: _Reader, data: bytes) -> tuple[Any, bytes]:
    """Take the file apart: its header, and the compressed pages."""
    at = len(MAGIC)
    if data[:at] != MAGIC:
        if data.startswith(MAGIC[:14]):
            raise read.bad("it was written by another version of kemu, whose format this one does not know")
        raise read.bad("it is no snapshot of kemu")
    if len(data) < at + 8 + DIGEST:
        raise read.bad("it is cut off")
    size = int.from_bytes(data[at : at + 8], "big")
    if size > MAX_HEADER or at + 8 + size + DIGEST > len(data):
        raise read.bad("it is cut off")
    if sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
        raise read.bad("it is damaged: its sha256 does not match")
    try:
        header = json.loads(data[at + 8 : at + 8 + size])
    except (ValueError, RecursionError):
        raise read.bad("its header is not JSON") from None
    return header, data[at + 8 + size : -DIGEST]


def _contents(read: _Reader, body: bytes, count: int) -> list[bytes]:
    """Unpack the pages, and no byte more than there must be."""
    size = count * PAGE_SIZE
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(body, size + 1)
    except zlib.error:
        raise read.bad("its pages cannot be unpacked") from None
    if len(data) != size or not inflate.eof or inflate.unused_data:
        raise read.bad("its pages are not as many as its header says")
    pages = [data[at : at + PAGE_SIZE] for at in range(0, size, PAGE_SIZE)]
    pages.reverse()
    return pages


def _read_process(read: _Reader, value: Any, swap_pages: int, slots: dict[int, bool], contents: list[bytes]) -> ProcessImage:
    """Read one process; its pages are taken off the end of ``contents``."""
    brk = read.number(value, "brk", 0, MAX_PAGES)
    seen: dict[int, bool] = {}

    def page(vpn: Any) -> int:
        number = read.within(vpn, "page", 0, brk - 1)
        if number in seen:
            raise read.bad(f"page {number} of {value['comm']!r} stands in it twice")
        seen[number] = True
        return number

    comm = read.text(value, "comm")
    resident = [(page(vpn), contents.pop()) for vpn in read.of(value, "resident", list)]
    swapped = []
    for row in read.of(value, "swapped", list):
        if not isinstance(row, list) or len(row) != 4:
            raise read.bad("'swapped' in its header is not what it should be")
        vpn = page(row[0])
        read.within(row[1], "area", 0, 0)
        slot = read.within(row[2], "slot", 1, swap_pages - 1)
        if slot in slots:
            raise read.bad(f"slot {slot} stands in it twice")
        slots[slot] = True
        digest = read.hexadecimal(row[3], "digest", DIGEST)
        if len(digest) != DIGEST:
            raise read.bad("'digest' in its header is too short")
        swapped.append((vpn, slot, digest))
    return ProcessImage(
        comm=comm,
        uid=read.number(value, "uid", 0, 2**32 - 2),
        program=read.of(value, "program", dict),
        asleep=read.of(value, "asleep", bool),
        mm=MmImage(brk, resident, swapped),
    )


def _read_sockets(read: _Reader, values: list[Any]) -> list[tuple[int, list[bytes]]]:
    """Read the sockets and what nobody has read from them."""
    if len(values) > MAX_SOCKETS or sum([len(read.of(value, "frames", list)) for value in values]) > MAX_FRAMES:
        raise read.bad(f"it has more than {MAX_SOCKETS} sockets or {MAX_FRAMES} datagrams")
    sockets: dict[int, list[bytes]] = {}
    for value in values:
        port = read.number(value, "port", 1, 65535)
        if port in sockets:
            raise read.bad(f"port {port} stands in it twice")
        sockets[port] = frames = [read.hexadecimal(frame, "frames", MAX_FRAME) for frame in value["frames"]]
        if any(len(frame) < MIN_FRAME for frame in frames):
            raise read.bad("'frames' in its header has one that is too short")
    return list(sockets.items())


def check_target(path: str, *, force: bool) -> None:
    """Refuse a place where a file cannot be written, or is there and may not be replaced."""
    target = Path(path)
    try:
        if target.exists() and not force:
            raise ConfigError(f"{path} is there already; --force replaces it")
        if target.is_dir() or not target.parent.is_dir():
            raise ConfigError(f"{path!r} cannot be written: {'it is a' if target.is_dir() else 'there is no such'} directory")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL byte in the name
        raise ConfigError(f"{path!r}: {error}") from None


def write_file(path: str, data: bytes, *, force: bool = False) -> None:
    """Write the file, whole or not at all; one that is there is not replaced unless ``force``."""
    check_target(path, force=force)
    target = Path(path)
    try:
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL byte in the name
        raise ConfigError(f"{path!r}: {error}") from None


def read_file(path: str) -> Snapshot:
    """Read and check a file; of one that is no snapshot only the first line is read."""
    file_path = Path(path)
    try:
        if file_path.exists() and not file_path.is_file():  # a pipe would let us wait for ever
            raise ConfigError(f"{path} cannot be resumed: it is no regular file")
        with file_path.open("rb") as file:
            data = file.read(len(MAGIC))
            if data == MAGIC:
                data += file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{path!r}: {error}") from None
    return decode(data, path)
