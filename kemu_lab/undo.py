"""What an UNSTABLE write replaced in a real file, so that an emulated loss of power can really lose it.

Interface
    * ``Undo``: of one file. ``remember()`` before a write that is not stable, ``settle()`` after one that is, ``commit()``,
      ``cut()``, ``restore()``. kemu_nfs/server/inode.py has the same for files in memory, and a test compares them.

Rules of this file
    * Blocks of 4096 bytes. A block's old bytes are kept once, when it is first written to; None stands for a hole or nothing.
"""

from __future__ import annotations

import os

BLOCK_SHIFT = 12
BLOCK_SIZE = 1 << BLOCK_SHIFT


class Undo:
    """What stable storage still holds of one file.

    :param size: the file's size when its first unstable write came.
    """

    __slots__ = ("blocks", "stable_size")

    def __init__(self, size: int) -> None:
        self.blocks: dict[int, bytes] = {}
        self.stable_size = size

    def remember(self, fd: int, offset: int, count: int) -> None:
        """Keep what is about to be written over."""
        for block in range(offset >> BLOCK_SHIFT, (offset + count - 1 >> BLOCK_SHIFT) + 1):
            if block not in self.blocks:
                self.blocks[block] = os.pread(fd, BLOCK_SIZE, block << BLOCK_SHIFT)

    def settle(self, offset: int, count: int, size: int) -> None:
        """Note that a stable write left nothing of its blocks to lose."""
        for block in range(offset >> BLOCK_SHIFT, (offset + count - 1 >> BLOCK_SHIFT) + 1):
            self.blocks.pop(block, None)
        self.stable_size = size

    def commit(self, first: int, last: int | None, size: int) -> int:
        """Forget the blocks of a COMMIT's range; return how many."""
        chosen = [block for block in self.blocks if first <= block and (last is None or block <= last)]
        for block in chosen:
            del self.blocks[block]
        if not self.blocks:
            self.stable_size = size
        elif chosen:
            self.stable_size = max(self.stable_size, min(size, (max(chosen) + 1) << BLOCK_SHIFT))
        return len(chosen)

    def cut(self, size: int) -> None:
        """Follow a change of the size, which is always stable."""
        keep = size + BLOCK_SIZE - 1 >> BLOCK_SHIFT
        for block in [block for block in self.blocks if block >= keep]:
            del self.blocks[block]
        if size & BLOCK_SIZE - 1 and keep - 1 in self.blocks:
            self.blocks[keep - 1] = self.blocks[keep - 1][: size & BLOCK_SIZE - 1]
        self.stable_size = size

    def restore(self, fd: int) -> int:
        """Put back what was stable; return how many blocks were lost."""
        for block, old in self.blocks.items():
            os.pwrite(fd, old.ljust(BLOCK_SIZE, b"\0"), block << BLOCK_SHIFT)
        os.ftruncate(fd, self.stable_size)
        return len(self.blocks)
