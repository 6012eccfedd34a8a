"""The slots of one swap area: use counts, and the search for a free one (2.6.23 mm/swapfile.c: scan_swap_map(), swap_entry_free()).

Interface
    * :class:`SwapMap`: ``scan()`` takes a slot, ``duplicate``, ``free`` count its users, ``next_in_use`` walks.

Rules of this file
    * Counts are u16: 0 free, SWAP_MAP_MAX 0x7fff sticky, SWAP_MAP_BAD 0x8000. Slot 0 is the header and always bad.
    * Slots are handed out in clusters of 256, so that pages which leave together stand together. A cluster begins at the first run
      of 256 free slots; where there is none, at the lowest free slot.
    * ``_taken`` mirrors "count is not 0" one byte per slot, so that both searches are one bytearray.find(): amortised O(1), where
      the kernel walks the counts.
"""

from __future__ import annotations

from array import array
from typing import Final

from kemu.errors import KernelBug

SWAP_MAP_MAX: Final = 0x7FFF
SWAP_MAP_BAD: Final = 0x8000
SWAPFILE_CLUSTER: Final = 256

_FREE_CLUSTER: Final = bytes(SWAPFILE_CLUSTER)


class SwapMap:
    """``swap_map`` and the scan hints of ``struct swap_info_struct``.

    :param max_slots: slots of the area with the header (``sis->max``).
    """

    __slots__ = (
        "_taken",
        "cluster_next",
        "cluster_nr",
        "counts",
        "highest_bit",
        "inuse_pages",
        "lowest_bit",
        "max",
        "pages",
    )

    def __init__(self, max_slots: int) -> None:
        self.counts = array("H", bytes(2 * max_slots))
        self._taken = bytearray(max_slots)
        self.max = max_slots
        self.pages = max_slots - 1  # good slots
        self.inuse_pages = 0
        self.lowest_bit = 1
        self.highest_bit = max_slots - 1
        self.cluster_next = 1
        self.cluster_nr = 0
        self.mark_bad(0)

    def mark_bad(self, offset: int) -> None:
        """Never hand out this slot."""
        self.counts[offset] = SWAP_MAP_BAD
        self._taken[offset] = 1

    def truncate(self, max_slots: int) -> None:
        """Shorten the area before its first use, when its extents end earlier than its header says."""
        del self.counts[max_slots:], self._taken[max_slots:]
        self.max = max_slots
        self.pages = max_slots - 1
        self.highest_bit = max_slots - 1

    def scan(self) -> int:
        """Take a free slot with a count of 1; return its number, or 0 if there is none (scan_swap_map())."""
        if not self.highest_bit:
            return 0
        if self.cluster_nr:
            self.cluster_nr -= 1
            offset = self.cluster_next
        else:
            self.cluster_nr = SWAPFILE_CLUSTER - 1
            offset = self._first_free_cluster()
        if offset > self.highest_bit:
            offset = self.lowest_bit
        found = self._taken.find(0, offset, self.highest_bit + 1)
        if found < 0:
            found = self._taken.find(0, self.lowest_bit, self.highest_bit + 1)
            if found < 0:
                return 0
        self._take(found)
        return found

    def _first_free_cluster(self) -> int:
        """Return where the first 256 free slots in a row begin, or the lowest slot worth looking at."""
        if self.pages - self.inuse_pages >= SWAPFILE_CLUSTER:
            found = self._taken.find(_FREE_CLUSTER, self.lowest_bit, self.highest_bit + 1)
            if found >= 0:
                return found
        return self.lowest_bit

    def _take(self, offset: int) -> None:
        if offset == self.lowest_bit:
            self.lowest_bit += 1
        if offset == self.highest_bit:
            self.highest_bit -= 1
        self.inuse_pages += 1
        if self.inuse_pages == self.pages:
            self.lowest_bit = self.max
            self.highest_bit = 0
        self.counts[offset] = 1
        self._taken[offset] = 1
        self.cluster_next = offset + 1

    def claim(self, offset: int) -> bool:
        """Take this very slot, for a page that was put there before the area was activated; tell whether it was free."""
        if not 0 < offset < self.max or self.counts[offset]:
            return False
        self._take(offset)
        return True

    def duplicate(self, offset: int) -> bool:
        """Count one more user of a slot that is in use; tell whether it was (swap_duplicate())."""
        if offset >= self.max:
            return False
        count = self.counts[offset]
        if not count or count >= SWAP_MAP_BAD:
            return False
        if count < SWAP_MAP_MAX:
            self.counts[offset] = count + 1
        return True

    def free(self, offset: int) -> int:
        """Drop a user; return how many are left. An overflowed count never falls again (swap_entry_free())."""
        count = self.counts[offset] if offset < self.max else 0
        if not count or count >= SWAP_MAP_BAD:
            raise KernelBug(f"swap_free: slot {offset} of {self.max} is unused or bad")
        if count < SWAP_MAP_MAX:
            count -= 1
            self.counts[offset] = count
            if not count:
                self._taken[offset] = 0
                self.lowest_bit = min(self.lowest_bit, offset)
                self.highest_bit = max(self.highest_bit, offset)
                self.inuse_pages -= 1
        return count

    def next_in_use(self, offset: int) -> int:
        """Return the first slot from ``offset`` on that holds a page, or 0 (find_next_to_unuse(), without wrapping)."""
        while (offset := self._taken.find(1, offset)) >= 0:
            if self.counts[offset] != SWAP_MAP_BAD:
                return offset
            offset += 1
        return 0

    def check(self) -> None:
        """Assert that counts, their mirror and the hints agree."""
        in_use = 0
        for offset, count in enumerate(self.counts):
            if bool(count) != bool(self._taken[offset]):
                raise KernelBug(f"slot {offset}: count {count:#x}, but taken is {self._taken[offset]}")
            in_use += bool(count) and count != SWAP_MAP_BAD
            if not count and not self.lowest_bit <= offset <= self.highest_bit:
                raise KernelBug(f"free slot {offset} is outside [{self.lowest_bit}, {self.highest_bit}]")
        if in_use != self.inuse_pages:
            raise KernelBug(f"{in_use} slots are in use, but inuse_pages is {self.inuse_pages}")
