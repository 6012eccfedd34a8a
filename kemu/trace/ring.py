"""The tracepoints of one machine and the ring that they write to (the manner of kernel/trace/trace.c, which 2.6.23 had not yet).

Interface: ``Trace.point(name, fields)``, ``enable(glob)``, ``disable(glob)``, ``last(n)``, ``events(glob)``,
``register_probe(name, fn)``.

Rules of this file
    * Names are the kernel's, ``system:event``; ``kemu:...`` for what the kernel has no event for.
    * A point that is made after ``enable()`` obeys it.
    * Fields are stored as they are. What may change afterwards should be passed as a number.
    * A probe is called with the values, where the event happens; it must change nothing of the machine.
"""

from __future__ import annotations

from collections import deque
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: What a record starts with: ns, CPU, command, pid.
Context = tuple[int, int, str, int]
Record = tuple[Context, "Tracepoint", tuple[Any, ...]]

#: Fields that are printed in hexadecimal, as TP_printk prints them.
HEX_FIELDS = frozenset({"gfp_flags", "addr", "call_site", "ptr", "page", "skbaddr", "skaddr", "location", "flags", "pfn"})


class Tracepoint:
    """One point; call it only if ``enabled``."""

    __slots__ = ("_context", "_records", "enabled", "fields", "name", "probes")

    def __init__(self, name: str, fields: tuple[str, ...], records: deque[Record], context: Callable[[], Context]) -> None:
        self.name = name
        self.fields = fields
        self.enabled = False
        self.probes: list[Callable[..., object]] = []
        self._records = records
        self._context = context

    def __call__(self, *values: Any) -> None:
        """Put a record into the ring, and call the probes."""
        self._records.append((self._context(), self, values))
        for probe in self.probes:
            probe(*values)

    def format(self, values: Sequence[Any]) -> str:
        """Give the fields as text."""
        parts = []
        for field, value in zip(self.fields, values, strict=False):
            text = f"{value:#x}" if field in HEX_FIELDS and isinstance(value, int) else str(value)
            parts.append(f"{field}={text}")
        return " ".join(parts)

    def __repr__(self) -> str:
        """Name the point."""
        return f"<tracepoint {self.name} {'on' if self.enabled else 'off'}>"


class Trace:
    """All tracepoints of one machine."""

    def __init__(self, context: Callable[[], Context], size: int = 10_000) -> None:
        self._context = context
        self._records: deque[Record] = deque(maxlen=size)
        self._points: dict[str, Tracepoint] = {}
        self._rules: list[tuple[str, bool]] = []

    def point(self, name: str, fields: tuple[str, ...]) -> Tracepoint:
        """Make the point of that name, or give the one that is there."""
        point = self._points.get(name)
        if point is None:
            point = self._points[name] = Tracepoint(name, fields, self._records, self._context)
            for pattern, on in self._rules:
                if fnmatchcase(name, pattern):
                    point.enabled = on
        return point

    def enable(self, pattern: str = "*") -> int:
        """Switch on all points whose name fits (``skb:*``); give how many there are now."""
        return self._set(pattern, True)

    def disable(self, pattern: str = "*") -> int:
        """Switch off all points whose name fits."""
        return self._set(pattern, False)

    def register_probe(self, name: str, probe: Callable[..., object]) -> None:
        """Switch a point on and call ``probe`` with its values from now on (``tracepoint_probe_register()``)."""
        self.enable(name)
        self._points[name].probes.append(probe)

    def _set(self, pattern: str, on: bool) -> int:
        self._rules.append((pattern, on))
        count = 0
        for point in self._points.values():
            if fnmatchcase(point.name, pattern):
                point.enabled = on
                count += 1
        return count

    def points(self) -> list[Tracepoint]:
        """Give all points by name."""
        return [self._points[name] for name in sorted(self._points)]

    def events(self, pattern: str = "*") -> Iterator[tuple[str, dict[str, Any]]]:
        """Give ``(name, fields)`` of each record that fits, oldest first."""
        for _, point, values in self._records:
            if fnmatchcase(point.name, pattern):
                yield point.name, dict(zip(point.fields, values, strict=False))

    def last(self, count: int = 20) -> list[str]:
        """Give the last records as lines, ``TASK-PID [CPU] secs.usecs: event: fields``."""
        records = list(self._records)[-count:] if count else []
        return [self._line(record) for record in records]

    def clear(self) -> None:
        """Forget all records."""
        self._records.clear()

    def __len__(self) -> int:
        """Count records in the ring."""
        return len(self._records)

    @staticmethod
    def _line(record: Record) -> str:
        (ns, cpu, comm, pid), point, values = record
        seconds, rest = divmod(ns // 1000, 1_000_000)
        event = point.name.partition(":")[2]
        return f"{comm + '-' + str(pid):>20} [{cpu:03d}] {seconds:5d}.{rest:06d}: {event}: {point.format(values)}"
