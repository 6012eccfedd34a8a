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
_EVENT = "BQQQ"
_PACK = struct.Struct(f"<{_EVENT}").pack
_BATCH = 1024
_PACK_BATCH = struct.Struct(f"<{_EVENT * _BATCH}").pack


class History:
    """A running sha256 over packed events; ``counts`` tells how many of each kind.

    There are two events per frame, so their numbers are only collected, and packed a thousand events at a time.
    """

    __slots__ = ("_hash", "_words", "counts")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._words: list[int] = []
        self.counts = [0] * len(KINDS)

    def add(self, kind: int | str, now_ns: int, a: int = 0, b: int = 0) -> None:
        """Record one event; ``kind`` is a constant of this file or its name, ``a`` and ``b`` are any ints (64 bits count)."""
        if kind.__class__ is str:
            kind = KINDS[kind]
        self.counts[kind] += 1  # type: ignore[index]  # a name has become its number one line above
        words = self._words
        words += (kind, now_ns, a, b)  # type: ignore[arg-type]  # as above
        if len(words) == 4 * _BATCH:
            self._hash.update(_packed(words))
            words.clear()

    def hexdigest(self) -> str:
        """Give ``sha256:...`` of everything up to now; recording may go on."""
        copy = self._hash.copy()
        copy.update(_packed(self._words))
        return f"sha256:{copy.hexdigest()}"


def _packed(words: list[int]) -> bytes:
    """Pack events, of which every word but the first counts with 64 bits."""
    if len(words) == 4 * _BATCH:
        try:
            return _PACK_BATCH(*words)
        except struct.error:
            pass  # a negative or a longer number is among them
    events = (words[at : at + 4] for at in range(0, len(words), 4))
    return b"".join(_PACK(kind, now_ns & _WORD, a & _WORD, b & _WORD) for kind, now_ns, a, b in events)
