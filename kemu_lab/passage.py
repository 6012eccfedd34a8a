"""One way through the gateway: an emulated TCP connection, the real one that belongs to it, and which replies are owed.

Interface
    Records          follows a stream from message to message: ``walk(data, at)``, ``whole``, ``xid``
    Passage(sk, real, patience)    ``called(data)``, ``cut()``, ``push(data)``, ``something()``, ``owed``, ``inbox``

Rules of this file
    * Bytes pass as they are. A call is owed a reply from when it is complete until a reply with its xid is. One that comes twice,
      or that nobody asked for, changes nothing.
    * Nothing here knows of virtual time.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from kemu.kernel.wait import WaitQueue
from kemu_nfs.server.record_marking import LAST_FRAGMENT

if TYPE_CHECKING:
    from kemu_net.ipv4.tcp_sock import TcpSock

CHUNK = 1 << 18
XID_SIZE = 4


class Records:
    """Follows a stream from message to message by the record marks, and keeps none of its bytes but the xid.

    :ivar whole: messages that are complete; ``xid``: the latest one's, None if it was too short for one.
    """

    __slots__ = ("_first", "_head", "_last", "_left", "whole", "xid")

    def __init__(self) -> None:
        self.whole = 0
        self.xid: bytes | None = None
        self._first = b""  # bytes of the message, up to a xid's length
        self._head = b""  # of a mark that is not complete
        self._left = 0  # bytes of the fragment that are still to come
        self._last = False

    def walk(self, data: bytes, at: int = 0) -> int:
        """Go on from ``at`` until a message is complete or the bytes are used up; return where that is."""
        size = len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                if len(self._first) < XID_SIZE:
                    self._first += data[at : at + min(step, XID_SIZE - len(self._first))]
                self._left -= step
                at += step
            else:
                step = min(4 - len(self._head), size - at)
                self._head += data[at : at + step]
                at += step
                if len(self._head) < 4:
                    break
                mark = int.from_bytes(self._head, "big")
                self._head = b""
                self._left = mark & (LAST_FRAGMENT - 1)
                self._last = mark >= LAST_FRAGMENT
            if not self._left and self._last:
                self.whole += 1
                self.xid = self._first if len(self._first) == XID_SIZE else None
                self._first = b""
                self._last = False
                break
        return at


class Passage:
    """One emulated connection and the real one that belongs to it.

    :ivar owed: the calls that the real server has not answered, by xid; ``inbox``: what it said and has not been passed on.
    :ivar patience: how long the world may stand still for the next bytes, in seconds of real time; ``full_patience``: and
        while it has not been silent.
    """

    def __init__(self, sk: TcpSock, real: socket.socket, patience: float) -> None:
        self.sk = sk
        self.real = real
        self.calls = Records()
        self.answers = Records()
        self.owed: set[bytes] = set()
        self.inbox = b""
        self.work = WaitQueue("gateway")
        self.patience = self.full_patience = patience
        self.closed = False
        self.reset = False

    def something(self) -> bool:
        """Tell whether who brings replies has something to do."""
        return self.closed or bool(self.owed)

    def called(self, data: bytes) -> int:
        """Take note of calls that went to the real server; tell how many are complete now that were not before."""
        calls = self.calls
        before = calls.whole
        at = 0
        while at < len(data):
            whole = calls.whole
            at = calls.walk(data, at)
            if calls.whole > whole and calls.xid is not None:
                self.owed.add(calls.xid)
        return calls.whole - before

    def cut(self) -> bytes:
        """Take from the inbox what belongs to one reply; ``answers.whole`` tells whether that completes it."""
        answers = self.answers
        whole = answers.whole
        end = answers.walk(self.inbox)
        if answers.whole > whole and answers.xid is not None:
            self.owed.discard(answers.xid)
        piece, self.inbox = self.inbox[:end], self.inbox[end:]
        return piece

    def push(self, data: bytes) -> None:
        """Give bytes to the real server and take what it says meanwhile, for it may not listen before it has been heard."""
        rest = memoryview(data)
        while rest:
            readable, writable, _ = select.select([self.real], [self.real], [], self.full_patience)
            if writable:
                rest = rest[self.real.send(rest) :]
                continue
            heard = self.real.recv(CHUNK) if readable else b""
            if not heard:
                raise OSError("the real server takes nothing any more")
            self.inbox += heard
