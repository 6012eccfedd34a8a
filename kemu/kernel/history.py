"""What happened, as one hash: two runs are the same run if their hashes are equal.

Five kinds of events are packed and fed to sha256. Nothing else is: tracepoints, printk and the vehicle leave no mark here.
"""

from __future__ import annotations

import hashlib
import struct

TASK_SWITCH = 0
FRAME = 1
PAGE_OUT = 2
PAGE_IN = 3
OUTCOME = 4
KINDS = {"task_switch": TASK_SWITCH, "frame": FRAME, "page_out": PAGE_OUT, "page_in": PAGE_IN, "outcome": OUTCOME}

_WORD = (1 << 64) - 1
_PACK = struct.Struct("<BQQQ").pack
_BATCH = 1 << 16


class History:
    """A running sha256 over packed events; ``counts`` tells how many of each kind."""

    __slots__ = ("_buffer", "_hash", "counts")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self.counts = [0] * len(KINDS)

    def add(self, kind: int | str, now_ns: int, a: int = 0, b: int = 0) -> None:
        """Record one event; ``kind`` is a constant of this file or its name, ``a`` and ``b`` are any ints (64 bits count)."""
        if kind.__class__ is str:
            kind = KINDS[kind]
        self.counts[kind] += 1  # type: ignore[index]  # a name has become its number one line above
        buffer = self._buffer
        buffer += _PACK(kind, now_ns & _WORD, a & _WORD, b & _WORD)
        if len(buffer) >= _BATCH:
            self._hash.update(buffer)
            buffer.clear()

    def hexdigest(self) -> str:
        """Give ``sha256:...`` of everything up to now; recording may go on."""
        copy = self._hash.copy()
        copy.update(self._buffer)
        return f"sha256:{copy.hexdigest()}"
