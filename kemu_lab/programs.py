"""What the processes of a scenario do. A program is data with a cursor: ``step()`` gives the next thing to do, and None at the end.

("grow", pages)          enlarge the heap
("write", vpn, bytes)    store a whole page
("read", vpn)            load a page; the shadow copy is compared by the machine
("sleep", None)          until somebody wakes the task
("mmap", file, vpn, pages, first)  map a file, shared; ("msync", vpn, pages) and ("munmap", vpn, pages) end that

A program can be written down between two steps: it holds numbers, the contents' source and an open file, and no function.
"""

from __future__ import annotations

import random
from typing import Protocol

from kemu.mm.address_space import File
from kemu_lab.lackey import Touch

GROW_PAGES = 256  # 1 MiB
FILE_BASE = 1 << 20  # the page at which a program maps its file, above any heap of these scenarios
TAG_SHIFT = 32
PAUSE_EVERY = 64  # touches of CycleWriter
ENDING = ("msync", "munmap")

Step = tuple[object, ...]


class Contents(Protocol):
    """Where the bytes of a page come from."""

    def page(self, vpn: int, version: int) -> bytes:
        """Return 4096 bytes."""
        ...


class FillThenRead:
    """Write a working set once, then read random pages of it; then sleep until it is told to end.

    The heap grows to its full size before the first write, a MiB at a time: each step looks harmless to the overcommit heuristic.
    """

    def __init__(self, pages: int, reads: int, contents: Contents, seed: int) -> None:
        self.pages = pages
        self.reads = reads
        self.contents = contents
        self.rng = random.Random(f"{seed}/reads")
        self.grown = self.written = self.read = 0
        self.done = False

    @property
    def total(self) -> int:
        """Count the touches of the whole program."""
        return self.pages + self.reads

    @property
    def position(self) -> int:
        """Count the touches so far."""
        return self.written + self.read

    def step(self) -> Step | None:
        """Return the next step."""
        if self.grown < self.pages:
            more = min(GROW_PAGES, self.pages - self.grown)
            self.grown += more
            return ("grow", more)
        if self.written < self.pages:
            vpn = self.written
            self.written += 1
            return ("write", vpn, self.contents.page(vpn, 1))
        if self.read < self.reads:
            self.read += 1
            return ("read", self.rng.randrange(self.pages))
        if not self.done:
            self.done = True
            return ("sleep", None)
        return None


class FollowTrace:
    """Touch the pages that a recorded program touched, in its order; then sleep until it is told to end."""

    def __init__(self, touches: list[Touch], contents: Contents) -> None:
        self.touches = touches
        self.contents = contents
        self.place: dict[int, int] = {}  # page of the trace -> page of the heap, in the order of first touch
        self.versions: list[int] = []
        self.position = 0
        self.grown = 0
        self.done = False

    @property
    def total(self) -> int:
        """Count the touches of the whole program."""
        return len(self.touches)

    def step(self) -> Step | None:
        """Return the next step."""
        if self.position == len(self.touches):
            if self.done:
                return None
            self.done = True
            return ("sleep", None)
        page, write = self.touches[self.position]
        vpn = self.place.get(page)
        if vpn is None:
            if len(self.place) == self.grown:
                self.grown += GROW_PAGES
                return ("grow", GROW_PAGES)
            vpn = self.place[page] = len(self.place)
            self.versions.append(0)
            write = True  # what the program found there, its image had put there
        self.position += 1
        if not write:
            return ("read", vpn)
        self.versions[vpn] += 1
        return ("write", vpn, self.contents.page(vpn, self.versions[vpn]))


class CycleWriter:
    """Write every page in order, again and again; after the last cycle sleep until told to end.

    Who writes to a page that is away brings it back first, and the machine compares it with what was written.

    It pauses for a jiffy now and then, as who has other things to do than to touch pages: several of them go forward together.

    :param tag: makes this process's pages differ from all others'.
    :param file: the pages are those of this open file, mapped shared; None: of the heap.
    """

    def __init__(self, pages: int, cycles: int, contents: Contents, tag: int, file: File | None = None) -> None:
        self.pages = pages
        self.cycles = cycles
        self.contents = contents
        self.tag = tag
        self.file = file
        self.base = 0 if file is None else FILE_BASE
        self.grown = 0
        self.position = 0
        self.paused = 0
        self.ending = 0
        self.done = False

    @property
    def total(self) -> int:
        """Count the touches of the whole program."""
        return self.pages * self.cycles

    def step(self) -> Step | None:
        """Return the next step."""
        pages = self.pages
        if self.grown < pages:
            return self._grow()
        if self.position < self.total:
            if self.position >= self.paused + PAUSE_EVERY:
                self.paused = self.position
                return ("sleep", 1)
            cycle, page = divmod(self.position, pages)
            self.position += 1
            return ("write", self.base + page, self.contents.page(self.tag << TAG_SHIFT | page, cycle + 1))
        if not self.done:
            self.done = True
            return ("sleep", None)
        self.ending += 1
        if self.file is not None and self.ending <= len(ENDING):
            return (ENDING[self.ending - 1], self.base, pages)
        return None

    def _grow(self) -> Step:
        """Map the file whole, or let the heap grow by one step."""
        if self.file is not None:
            self.grown = self.pages
            return ("mmap", self.file, self.base, self.pages, 0)
        more = min(GROW_PAGES, self.pages - self.grown)
        self.grown += more
        return ("grow", more)


class SleepingReader:
    """The owner of a socket: fill a little memory, sleep while it is swapped out, and at the end read it again."""

    def __init__(self, pages: int, contents: Contents) -> None:
        self.pages = pages
        self.contents = contents
        self.cursor = 0

    @property
    def asleep(self) -> bool:
        """Tell whether the memory is filled and the sleep has begun."""
        return self.cursor == self.pages + 2

    def step(self) -> Step | None:
        """Return the next step."""
        at = self.cursor
        self.cursor += 1
        if at == 0:
            return ("grow", self.pages)
        if at <= self.pages:
            return ("write", at - 1, self.contents.page(at - 1, 1))
        if at == self.pages + 1:
            return ("sleep", None)
        if at <= 2 * self.pages + 1:
            return ("read", at - self.pages - 2)
        return None
