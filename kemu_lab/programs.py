"""What the processes of a scenario do. A program is data with a cursor: ``step()`` gives the next thing to do, and None at the end.

("grow", pages)          enlarge the heap
("write", vpn, bytes)    store a whole page
("read", vpn)            load a page; the shadow copy is compared by the machine
("sleep", None)          until somebody wakes the task
("call", function)       a system call of its own
"""

from __future__ import annotations

import random
from typing import Protocol

from kemu_lab.lackey import Touch

GROW_PAGES = 256  # 1 MiB

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
