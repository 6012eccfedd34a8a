"""Which runnable task goes next, and whether a preemption point preempts.

First in first out is the default and costs nothing. :class:`Seeded` draws from a seed; :class:`Explorer` asks a callable, so that a
search can walk through all interleavings.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.task import Task


class Policy:
    """First in, first out; no preemption."""

    def choose(self, runnable: list[Task]) -> int:
        """Give the index of the task that goes next, out of at least two."""
        return 0

    def preempt(self, label: str, current: Task) -> bool:
        """Tell whether ``current`` is preempted at the point of that name."""
        return False


FIFO = Policy()


class Seeded(Policy):
    """Draw tasks from a seed; preempt at one of ``one_in`` preemption points (0: never)."""

    def __init__(self, seed: int, one_in: int = 0) -> None:
        self._random = random.Random(seed)  # a schedule, not a secret
        self._one_in = one_in

    def choose(self, runnable: list[Task]) -> int:
        """Draw."""
        return self._random.randrange(len(runnable))

    def preempt(self, label: str, current: Task) -> bool:
        """Draw."""
        return self._one_in > 0 and self._random.randrange(self._one_in) == 0


class Explorer(Policy):
    """Ask: ``choose(runnable)`` gives an index, ``preempt(label, current)`` (or None) gives a bool."""

    def __init__(self, choose: Callable[[list[Task]], int], preempt: Callable[[str, Task], bool] | None = None) -> None:
        self._choose = choose
        self._preempt = preempt

    def choose(self, runnable: list[Task]) -> int:
        """Ask."""
        return self._choose(runnable)

    def preempt(self, label: str, current: Task) -> bool:
        """Ask, if there is somebody to ask."""
        return self._preempt is not None and self._preempt(label, current)
