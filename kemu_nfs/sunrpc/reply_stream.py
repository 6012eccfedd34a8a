"""Replies out of a TCP stream: record marks, xids, and bytes copied straight to the call that waits (2.6.23 net/sunrpc/xprtsock.c).

Interface
    * :class:`ReplyStream`: ``feed(data)`` takes the next bytes of the stream, however they are cut; ``broken`` says why nothing
      more can be understood. ``reset()`` for a new connection.

Rules of this file
    * No bytes raise anything. A fragment shorter than an xid or longer than MAX_FRAGMENT breaks the stream; the connection must go.
    * A reply is kept only for a call that waits, and no more of it than that call's limit; the rest, and replies to nobody, are
      skipped as they come. So what a hostile server sends costs no memory.
    * Bytes of a reply are joined when it is whole. The kernel copies each segment into the call's pages in the same softirq.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from kemu_nfs.sunrpc.rpc_const import RPC_FRAGMENT_SIZE_MASK, RPC_LAST_STREAM_FRAGMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_nfs.sunrpc.rpc_task import RpcRqst
    from kemu_nfs.sunrpc.xprt import Xprt

MAX_FRAGMENT: Final = 2 << 20  # twice the largest READ
_MARK_AND_XID: Final = struct.Struct("!2I")


class ReplyStream:
    """The receiving half of one connection (``tcp_offset``, ``tcp_reclen``, ``tcp_xid``, ``tcp_flags``).

    :param xprt: knows the calls that wait, by xid.
    :param complete: called with a call and its whole reply.
    :ivar skipped: bytes that were for nobody.
    """

    __slots__ = ("_chunks", "_complete", "_got", "_head", "_last", "_left", "_need", "_req", "_xid", "_xprt", "broken", "skipped")

    def __init__(self, xprt: Xprt, complete: Callable[[RpcRqst, bytes], None]) -> None:
        self._xprt = xprt
        self._complete = complete
        self.skipped = 0
        self.reset()

    def reset(self) -> None:
        """Begin at the start of a record."""
        self.broken: str | None = None
        self._head = b""  # of a mark or an xid, when it is cut
        self._left = 0  # bytes of the fragment still to come
        self._last = False
        self._need = 4  # bytes of mark or xid that are missing; 0 while inside the data
        self._xid: int | None = None
        self._req: RpcRqst | None = None
        self._chunks: list[bytes] = []
        self._got = 0

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream (xs_tcp_data_recv())."""
        size = len(data)
        if self._need == 4 and not self._head and self._xid is None and not self._left and size >= 8:
            # the usual cases: one reply and nothing else, or the beginning of a longer one
            mark, xid = _MARK_AND_XID.unpack_from(data)
            length = mark & RPC_FRAGMENT_SIZE_MASK
            if mark & RPC_LAST_STREAM_FRAGMENT and size - 4 <= length <= MAX_FRAGMENT and self.broken is None:
                req = self._xprt.recv.get(xid)
                if size - 4 < length:
                    self._need = 0
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
        self._feed(data, size)

    def _feed(self, data: bytes, size: int) -> None:
        """Go through the data piece by piece."""
        position = 0
        while position < size and self.broken is None:
            if self._need:
                piece = data[position : position + self._need]
                position += len(piece)
                self._need -= len(piece)
                self._head += piece
                if not self._need:
                    self._word()
            else:
                piece = data[position : position + self._left] if position or self._left < size else data
                position += len(piece)
                self._left -= len(piece)
                self._take(piece)
                if not self._left:
                    self._end_of_fragment()

    def _word(self) -> None:
        """Use a mark or an xid that is complete (xs_tcp_read_fraghdr(), xs_tcp_read_xid())."""
        value = int.from_bytes(self._head, "big")
        self._head = b""
        if not self._left:
            length = value & RPC_FRAGMENT_SIZE_MASK
            if length < 4 or length > MAX_FRAGMENT:
                self.broken = f"a record fragment of {length} bytes"
                return
            self._left = length
            self._last = bool(value & RPC_LAST_STREAM_FRAGMENT)
            if self._xid is None:
                self._need = 4
            return
        self._xid = value
        self._left -= 4
        self._req = self._xprt.recv.get(value)
        self._got = 0
        self._take(value.to_bytes(4, "big"))
        if not self._left:
            self._end_of_fragment()

    def _take(self, piece: bytes) -> None:
        """Keep what is for a call that waits (xs_tcp_read_request())."""
        req = self._req
        if req is None:
            self.skipped += len(piece)
            return
        room = _limit(req) - self._got
        if len(piece) > room:
            self.skipped += len(piece) - room
            piece = piece[:room]
        self._got += len(piece)
        self._chunks.append(piece)

    def _end_of_fragment(self) -> None:
        """Begin the next fragment, or hand the reply over (xs_tcp_check_fraghdr())."""
        self._need = 4
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
