"""Programs as plain data, and back: what a snapshot says of a process besides its memory.

Interface: ``to_data(program)``, ``from_data(data, contents, seed, where)``, ``check_state(program, process, where)``.

Rules of this file
    * Only programs of the table can be written down; another one is a :exc:`ConfigError` of who asks for a snapshot.
    * A program is made anew by its own constructor and its cursor is set. A random generator is not written down: as many numbers
      are drawn from it as were drawn before.
"""

from __future__ import annotations

from typing import Any

from kemu.errors import ConfigError
from kemu_lab.programs import Contents, FillThenRead, SleepingReader
from kemu_lab.snapshot_file import ProcessImage

Program = FillThenRead | SleepingReader
MAX_PAGES = 1 << 24
MAX_READS = 1 << 24
MAX_SEED = 2**32 - 1


def to_data(program: object) -> dict[str, Any]:
    """Write a program down."""
    if isinstance(program, FillThenRead):
        return {
            "kind": "FillThenRead",
            "pages": program.pages,
            "reads": program.reads,
            "grown": program.grown,
            "written": program.written,
            "read": program.read,
            "done": int(program.done),
        }
    if isinstance(program, SleepingReader):
        return {"kind": "SleepingReader", "pages": program.pages, "cursor": program.cursor}
    raise ConfigError(f"a process that runs {type(program).__name__} cannot be written to a snapshot")


def from_data(data: dict[str, Any], contents: Contents, seed: int, where: str) -> Program:
    """Make a program anew, at the step where it was."""

    def number(key: str, high: int) -> int:
        value = data.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
            raise ConfigError(f"{where} cannot be resumed: {key!r} of a program is no number from 0 to {high}")
        return value

    kind = data.get("kind") if isinstance(data.get("kind"), str) else None
    if kind == "SleepingReader":
        pages = number("pages", MAX_PAGES)
        reader = SleepingReader(pages, contents)
        reader.cursor = number("cursor", 2 * pages + 3)
        return reader
    if kind == "FillThenRead":
        pages, reads = number("pages", MAX_PAGES), number("reads", MAX_READS)
        worker = FillThenRead(pages, reads, contents, seed)
        worker.grown, worker.written, worker.read = number("grown", pages), number("written", pages), number("read", reads)
        worker.done = bool(number("done", 1))
        unfinished = [(worker.written, worker.grown), (worker.read, worker.written), (worker.done, worker.read)]
        wanted = (pages, pages, reads)
        if any(later and before != all_ for (later, before), all_ in zip(unfinished, wanted, strict=True)) or (reads and not pages):
            raise ConfigError(f"{where} cannot be resumed: a program has done its steps in a wrong order")
        for _ in range(worker.read):
            worker.rng.randrange(pages)
        return worker
    raise ConfigError(f"{where} cannot be resumed: there is no program {kind!r} here")


def check_state(program: Program, process: ProcessImage, where: str) -> None:
    """Refuse a process whose memory or sleep is not what its program has come to: it would wait for ever, or miss pages."""
    if isinstance(program, FillThenRead):
        heap, written, asleep = program.grown, program.written, program.done
    else:
        heap = program.pages if program.cursor else 0
        written, asleep = min(max(program.cursor - 1, 0), program.pages), program.asleep
    pages = [vpn for vpn, _ in process.mm.resident] + [vpn for vpn, _, _ in process.mm.swapped]
    if process.mm.brk != heap or len(pages) != written or max(pages, default=-1) >= written or process.asleep != asleep:
        raise ConfigError(f"{where} cannot be resumed: the memory of {process.comm!r} is not what its program has made of it")
