"""Live progress of a run: a line on a terminal's stderr, nothing elsewhere.

A scenario calls ``watch.update(...)`` as often as it likes; a picture is drawn ten times a second at most, by the wall clock,
which the emulated machines never see.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REDRAW_SECONDS = 0.1


class Watch:
    """Nobody looks: every update is dropped."""

    def update(self, phase: str, position: int, total: int, line: Callable[[], str]) -> None:
        """Take note of ``position`` of ``total`` in a phase; ``line`` gives the counters, if somebody looks."""


class LiveWatch(Watch):
    """A bar and a line of counters, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        self.bar = self.progress.add_task("boot", total=1, text="")
        self.drawn = 0.0

    def update(self, phase: str, position: int, total: int, line: Callable[[], str]) -> None:
        """Redraw if the last picture is old enough."""
        now = time.monotonic()
        if now - self.drawn >= REDRAW_SECONDS:
            self.drawn = now
            self.progress.update(self.bar, description=phase, completed=position, total=max(total, 1), text=line())
            self.progress.refresh()


@contextmanager
def watcher(*, show: bool) -> Iterator[Watch]:
    """Give a live watch where a person looks at a terminal, else a silent one."""
    if not (show and sys.stderr.isatty()):
        yield Watch()
        return
    watch = LiveWatch()
    with watch.progress:
        yield watch
