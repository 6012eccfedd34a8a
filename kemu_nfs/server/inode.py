"""One object of the server's file system: a regular file with its blocks, a directory with its names, or a special object.

Interface
    * ``Inode``: the attributes of RFC 1813's fattr3, and what belongs to the type.
    * ``read_data()``, ``write_data()``, ``resize()``, ``commit()``, ``lose_unstable()``: the data of a regular file.

Rules of this file
    * A file's data is a dict from block number to an immutable ``bytes`` of 4096 bytes. A write of whole blocks stores the caller's
      object, a read of a whole block returns it: a page that is swapped out over the wire and back is one object on the server.
    * A missing block is a hole and reads as zeros. No block lies wholly beyond the end of the file, and what a block holds beyond
      the end is zero, so that a file that shrinks and grows again shows zeros.
    * What UNSTABLE writes replaced is kept in ``undo`` until it is committed: losing power puts it back.
    * Left out: holes punched inside a file, and the size of a directory (it is told as one block).
"""

from __future__ import annotations

from kemu.errors import KernelBug
from kemu_nfs.server.tree import FIRST_COOKIE
from kemu_nfs.sunrpc.nfs3_const import NF3DIR, NF3LNK, NF3REG

BLOCK_SIZE = 4096
BLOCK_SHIFT = 12
ZERO_BLOCK = bytes(BLOCK_SIZE)


class DirEntry:
    """A name in a directory; the cookie is where a READDIR that stopped here goes on."""

    __slots__ = ("cookie", "inode", "name")

    def __init__(self, name: bytes, inode: Inode, cookie: int) -> None:
        self.name = name
        self.inode = inode
        self.cookie = cookie


class Inode:
    """A file system object. Times are ns since the epoch; ``used`` of fattr3 follows from the blocks.

    :param ftype: NF3REG, NF3DIR, ...
    :param handle: the opaque file handle that clients hold.
    """

    __slots__ = (
        "atime_ns",
        "blocks",
        "create_verf",
        "ctime_ns",
        "entries",
        "fileid",
        "ftype",
        "gid",
        "handle",
        "mode",
        "mtime_ns",
        "next_cookie",
        "nlink",
        "parent",
        "rdev",
        "size",
        "stable_size",
        "target",
        "uid",
        "undo",
    )

    def __init__(self, ftype: int, fileid: int, handle: bytes, mode: int, uid: int, gid: int, now_ns: int) -> None:
        self.ftype = ftype
        self.fileid = fileid
        self.handle = handle
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = 2 if ftype == NF3DIR else 1
        self.size = BLOCK_SIZE if ftype == NF3DIR else 0
        self.rdev = (0, 0)
        self.atime_ns = self.mtime_ns = self.ctime_ns = now_ns
        # a regular file:
        self.blocks: dict[int, bytes] = {}
        self.undo: dict[int, bytes | None] = {}  # block -> what stable storage still holds
        self.stable_size = 0
        self.create_verf: bytes | None = None  # of an EXCLUSIVE CREATE
        # a directory:
        self.entries: dict[bytes, DirEntry] = {}  # in the order of their cookies
        self.next_cookie = FIRST_COOKIE
        self.parent: Inode | None = None
        # a symbolic link:
        self.target = b""

    @property
    def used(self) -> int:
        """Bytes of storage that the object takes."""
        return BLOCK_SIZE if self.ftype == NF3DIR else len(self.blocks) << BLOCK_SHIFT

    def read_data(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``; shorter only at the end of the file."""
        if not offset & 0xFFF and count == BLOCK_SIZE and offset + BLOCK_SIZE <= self.size:
            return self.blocks.get(offset >> BLOCK_SHIFT, ZERO_BLOCK)
        end = min(offset + count, self.size)
        pieces = []
        while offset < end:
            block, within = divmod(offset, BLOCK_SIZE)
            piece = self.blocks.get(block, ZERO_BLOCK)[within : within + end - offset]
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def write_data(self, offset: int, data: bytes, stable: bool) -> None:
        """Store ``data``; a ``stable`` write leaves nothing of its blocks to lose."""
        if not data:
            return
        position = 0
        while position < len(data):
            block, within = divmod(offset + position, BLOCK_SIZE)
            if not within and len(data) - position >= BLOCK_SIZE:
                # bytes[0:len] of the whole object is the object itself: no copy for a single page
                piece = data[position : position + BLOCK_SIZE]
                step = BLOCK_SIZE
            else:
                old = self.blocks.get(block, ZERO_BLOCK)
                fresh = data[position : position + BLOCK_SIZE - within]
                step = len(fresh)
                piece = b"".join((old[:within], fresh, old[within + step :]))
            if not stable:
                self.undo.setdefault(block, self.blocks.get(block))
            elif self.undo:
                self.undo.pop(block, None)
            self.blocks[block] = piece
            position += step
        self.size = max(self.size, offset + len(data))
        if stable:
            self.stable_size = self.size

    def resize(self, size: int) -> None:
        """Cut the file or extend it by a hole; always stable, as RFC 1813 wants of SETATTR."""
        if size < self.size:
            keep = (size + BLOCK_SIZE - 1) >> BLOCK_SHIFT
            for block in [block for block in self.blocks if block >= keep]:
                del self.blocks[block]
            for block in [block for block in self.undo if block >= keep]:
                del self.undo[block]
            tail = size & (BLOCK_SIZE - 1)
            if tail:
                last = keep - 1
                for held in (self.blocks, self.undo):
                    old = held.get(last)
                    if old is not None:
                        held[last] = old[:tail] + bytes(BLOCK_SIZE - tail)
        self.size = self.stable_size = size

    def commit(self, first: int = 0, last: int | None = None) -> int:
        """Make blocks ``first`` to ``last`` stable, to the end if it is None; return how many had to be written."""
        undo = self.undo
        blocks = len(undo)
        if first or last is not None:
            chosen = [block for block in undo if first <= block and (last is None or block <= last)]
            for block in chosen:
                del undo[block]
            if not undo:
                self.stable_size = self.size
            elif chosen:
                self.stable_size = max(self.stable_size, min(self.size, (max(chosen) + 1) << BLOCK_SHIFT))
        else:
            undo.clear()
            self.stable_size = self.size
        return blocks - len(undo)

    def lose_unstable(self) -> int:
        """Put back what stable storage holds, as a loss of power does; return how many blocks were lost."""
        blocks = len(self.undo)
        for block, old in self.undo.items():
            if old is None:
                del self.blocks[block]
            else:
                self.blocks[block] = old
        self.undo.clear()
        if self.stable_size < self.size:
            self.resize(self.stable_size)
        return blocks

    def add_entry(self, name: bytes, inode: Inode) -> None:
        """Enter a name that is not there."""
        self.entries[name] = DirEntry(name, inode, self.next_cookie)
        self.next_cookie += 1

    def check(self) -> None:
        """Assert what the head of this file promises."""
        if self.ftype == NF3REG:
            for block, data in self.blocks.items():
                if len(data) != BLOCK_SIZE:
                    raise KernelBug(f"file {self.fileid}: block {block} has {len(data)} bytes")
                beyond = ((block + 1) << BLOCK_SHIFT) - self.size
                if beyond >= BLOCK_SIZE or (beyond > 0 and data[-beyond:].strip(b"\0")):
                    raise KernelBug(f"file {self.fileid}: block {block} holds data beyond the size {self.size}")
            if not self.undo.keys() <= self.blocks.keys():
                raise KernelBug(f"file {self.fileid}: an undo without its block")
        elif self.ftype == NF3DIR:
            cookies = [entry.cookie for entry in self.entries.values()]
            if cookies != sorted(cookies):
                raise KernelBug(f"directory {self.fileid}: cookies out of order: {cookies}")
        elif self.ftype == NF3LNK and self.size != len(self.target):
            raise KernelBug(f"symbolic link {self.fileid}: size {self.size}, target of {len(self.target)} bytes")
