"""printk: what the machine says (2.6.23 kernel/printk.c).

Lines go to a bounded ring with their local time; nothing is printed. ``ratelimited()`` is the token bucket of
__printk_ratelimit(): one line per 5 s, bursts of 10, one bucket per key.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
RATELIMIT_NS = 5_000_000_000
RATELIMIT_BURST = 10


class Printk:
    """The message ring of one machine.

    :ivar buffer: ``(ns, level, text)``, oldest first.
    :ivar console: called with each of them, if somebody listens.
    """

    def __init__(self, kernel: Kernel, lines: int = 1000) -> None:
        self._kernel = kernel
        self.buffer: deque[tuple[int, str, str]] = deque(maxlen=lines)
        self.console: Callable[[int, str, str], object] | None = None
        self._buckets: dict[str, list[int]] = {}

    def __call__(self, text: str, level: str = "info") -> None:
        """Say one line, or several."""
        now = self._now()
        for line in text.splitlines():
            self.buffer.append((now, level, line))
            if self.console is not None:
                self.console(now, level, line)

    def ratelimited(self, key: str, text: str, level: str = "warning") -> bool:
        """Say it, unless ``key`` has been loud lately; tell whether it was said."""
        now = self._now()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = [now, RATELIMIT_BURST * RATELIMIT_NS, 0]
        last, tokens, missed = bucket
        tokens = min(tokens + now - last, RATELIMIT_BURST * RATELIMIT_NS)
        bucket[0] = now
        if tokens < RATELIMIT_NS:
            bucket[1] = tokens
            bucket[2] = missed + 1
            return False
        bucket[1] = tokens - RATELIMIT_NS
        bucket[2] = 0
        if missed:
            self(f"printk: {missed} messages suppressed.", "warning")
        self(text, level)
        return True

    def _now(self) -> int:
        world = self._kernel.world
        return world.running.now if world.in_hub else self._kernel.sched.cpu.now

    def lines(self) -> list[str]:
        """Give the ring as dmesg prints it."""
        return [f"[{ns // 10**9:5d}.{ns // 1000 % 10**6:06d}] {text}" for ns, _, text in self.buffer]
