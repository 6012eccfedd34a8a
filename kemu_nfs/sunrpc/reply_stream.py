"""Replies out of a TCP stream: record marks, xids, and bytes copied straight to the call that waits (2.6.23 net/sunrpc/xprtsock.c).

Interface
    * :class:`ReplyStream`: ``feed(data)`` takes the next bytes of the stream, however they are cut; ``broken`` says why nothing
      more can be understood. ``reset()`` for a new connection.
    * :data:`STREAM_STATES`: what may be read next, as a table.

Rules of this file
    * No bytes raise anything. A fragment shorter than an xid or longer than MAX_FRAGMENT breaks the stream; the connection must go.
      (The kernel believes any length, and waits for 2 GiB.)
    * A reply is kept only for a call that waits, and no more of it than that call's limit; the rest, and replies to nobody, are
      skipped as they come. So what a hostile server sends costs no memory.
    * Bytes of a reply are joined when it is whole. The kernel copies each segment into the call's pages in the same softirq.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

from kemu_nfs.sunrpc.rpc_const import RPC_FRAGMENT_SIZE_MASK, RPC_LAST_STREAM_FRAGMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_nfs.sunrpc.rpc_task import RpcRqst
    from kemu_nfs.sunrpc.xprt import Xprt

MAX_FRAGMENT: Final = 2 << 20  # twice the largest READ
_MARK_AND_XID: Final = struct.Struct("!2I")

READ_FRAGHDR: Final = 0
READ_XID: Final = 1
READ_REQUEST: Final = 2
READ_DISCARD: Final = 3


@attrs.frozen
class StreamState:
    """What is read: by which function of the kernel, what it does, and the states that may follow."""

    name: str
    does: str
    then: tuple[int, ...]


STREAM_STATES: Final[dict[int, StreamState]] = {
    READ_FRAGHDR: StreamState(
        "xs_tcp_read_fraghdr", "collects the mark of a fragment: its length, and whether it ends the record",
        (READ_XID, READ_REQUEST, READ_DISCARD),
    ),
    READ_XID: StreamState(
        "xs_tcp_read_xid", "collects the xid of a record and looks for its call", (READ_REQUEST, READ_DISCARD, READ_FRAGHDR)
    ),
    READ_REQUEST: StreamState(
        "xs_tcp_read_request", "copies a fragment to the call that waits, up to what it wants", (READ_FRAGHDR, READ_DISCARD)
    ),
    READ_DISCARD: StreamState("xs_tcp_read_discard", "passes over a fragment that nobody wants", (READ_FRAGHDR,)),
}  # fmt: skip


class ReplyStream:
    """The receiving half of one connection (``tcp_offset``, ``tcp_reclen``, ``tcp_xid``, ``tcp_flags``).

    :param xprt: knows the calls that wait, by xid.
    :param complete: called with a call and its whole reply.
    :ivar state: what is read next, a key of STREAM_STATES.
    :ivar skipped: bytes that were for nobody.
    """

    __slots__ = (
        "_chunks", "_complete", "_got", "_head", "_last", "_left", "_req", "_steps", "_xid", "_xprt", "broken", "skipped", "state",
    )  # fmt: skip

    def __init__(self, xprt: Xprt, complete: Callable[[RpcRqst, bytes], None]) -> None:
        self._xprt = xprt
        self._complete = complete
        self._steps: tuple[Callable[[bytes, int], int], ...] = (
            self._read_fraghdr,
            self._read_xid,
            self._read_request,
            self._read_discard,
        )
        self.skipped = 0
        self.reset()

    def reset(self) -> None:
        """Begin at the start of a record."""
        self.broken: str | None = None
        self.state = READ_FRAGHDR
        self._head = b""  # of a mark or an xid, when it is cut
        self._left = 0  # bytes of the fragment still to come
        self._last = False
        self._xid: int | None = None
        self._req: RpcRqst | None = None
        self._chunks: list[bytes] = []
        self._got = 0

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream (xs_tcp_data_recv())."""
        size = len(data)
        if size >= 8 and self.state == READ_FRAGHDR and not self._head and self._xid is None and self.broken is None:
            # the usual cases: one reply and nothing else, or the beginning of a longer one
            mark, xid = _MARK_AND_XID.unpack_from(data)
            length = mark & RPC_FRAGMENT_SIZE_MASK
            if mark & RPC_LAST_STREAM_FRAGMENT and size - 4 <= length <= MAX_FRAGMENT:
                req = self._xprt.recv.get(xid)
                if size - 4 < length:
                    self._left = length - size + 4
                    self._last = True
                    self._xid = xid
                    self._req = req
                    self._got = 0
                    self._take(data[4:])
                    return
                if req is not None and length <= _limit(req):
                    self._complete(req, data[4:])
                    return
        position = 0
        while position < size and self.broken is None:
            position = self._steps[self.state](data, position)

    def _word(self, data: bytes, position: int) -> tuple[int, int | None]:
        """Collect four bytes: (where they end, their value or None if some are still to come)."""
        piece = data[position : position + 4 - len(self._head)]
        self._head += piece
        if len(self._head) < 4:
            return position + len(piece), None
        value = int.from_bytes(self._head, "big")
        self._head = b""
        return position + len(piece), value

    def _read_fraghdr(self, data: bytes, position: int) -> int:
        """Begin a fragment (xs_tcp_read_fraghdr())."""
        position, mark = self._word(data, position)
        if mark is not None:
            length = mark & RPC_FRAGMENT_SIZE_MASK
            if length < 4 or length > MAX_FRAGMENT:
                self.broken = f"a record fragment of {length} bytes"
                return position
            self._left = length
            self._last = bool(mark & RPC_LAST_STREAM_FRAGMENT)
            self.state = READ_XID if self._xid is None else self._data_state()
        return position

    def _read_xid(self, data: bytes, position: int) -> int:
        """Find the call of a record (xs_tcp_read_xid())."""
        position, xid = self._word(data, position)
        if xid is not None:
            self._xid = xid
            self._left -= 4
            self._req = self._xprt.recv.get(xid)
            self._got = 0
            self._take(xid.to_bytes(4, "big"))
            if not self._left:
                self._check_fraghdr()
        return position

    def _read_request(self, data: bytes, position: int) -> int:
        """Keep what is for a call that waits (xs_tcp_read_request())."""
        end = min(position + self._left, len(data))
        self._left -= end - position
        self._take(data[position:end])
        if not self._left:
            self._check_fraghdr()
        return end

    def _read_discard(self, data: bytes, position: int) -> int:
        """Pass over what nobody wants (xs_tcp_read_discard())."""
        end = min(position + self._left, len(data))
        self._left -= end - position
        self.skipped += end - position
        if not self._left:
            self._check_fraghdr()
        return end

    def _data_state(self) -> int:
        """Tell whether more of this record is wanted."""
        req = self._req
        return READ_REQUEST if req is not None and self._got < _limit(req) else READ_DISCARD

    def _take(self, piece: bytes) -> None:
        """Keep as much of a piece as its call wants."""
        req = self._req
        room = _limit(req) - self._got if req is not None else 0
        if len(piece) > room:
            self.skipped += len(piece) - room
            piece = piece[:room]
        if piece:
            self._got += len(piece)
            self._chunks.append(piece)
        self.state = self._data_state()

    def _check_fraghdr(self) -> None:
        """Begin the next fragment, or hand the reply over (xs_tcp_check_fraghdr())."""
        self.state = READ_FRAGHDR
        if not self._last:
            return
        req, xid = self._req, self._xid
        self._xid = None
        self._req = None
        chunks, self._chunks = self._chunks, []
        if req is not None and xid is not None and self._xprt.recv.get(xid) is req:
            self._complete(req, b"".join(chunks))


def _limit(req: RpcRqst) -> int:
    """Return how long the call's reply may be."""
    task = req.rq_task
    return task.tk_proc.limit if task is not None else 0
