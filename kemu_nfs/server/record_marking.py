"""Record marking (RFC 5531, 11): messages in a byte stream, without I/O.

Interface
    * ``frame(message)``: a message as one last fragment.
    * ``RecordReader.feed(data)``: stream bytes in, the messages that became complete out.

Rules of this file
    * A fragment's head is four bytes: the top bit marks a message's last fragment, the rest is the length.
    * What comes is cut once: pieces are kept until the fragment is whole and joined then, never added one to the other.
    * A message longer than ``limit`` cannot be skipped in trust: the reader is ``broken`` from then on, and the connection must go.
    * An empty fragment that is not the last is legal; a stream of nothing but these also ends at a limit.
"""

from __future__ import annotations

LAST_FRAGMENT = 0x80000000
MAX_FRAGMENTS = 256  # per message; a peer that needs more plays with us


def frame(message: bytes) -> bytes:
    """Mark a message as one record."""
    return b"".join(((LAST_FRAGMENT | len(message)).to_bytes(4, "big"), message))


class RecordReader:
    """The reading side of one connection.

    :param limit: the longest message, in bytes, that is accepted.
    """

    __slots__ = ("_buffered", "_chunks", "_fragments", "_need", "broken", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.broken: str | None = None
        self._chunks: list[bytes] = []  # of the stream, not yet consumed
        self._buffered = 0
        self._need = 4  # bytes that must be there before something can happen
        self._fragments: list[bytes] = []  # of the message that is not complete

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes of the stream and return the messages that they complete."""
        if self.broken is not None or not data:
            return []
        if not self._chunks and not self._fragments:
            # the usual case: a message and nothing else
            size = len(data) - 4
            if size > 0 and int.from_bytes(data[:4], "big") == LAST_FRAGMENT | size and size <= self.limit:
                return [data[4:]]
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered < self._need:
            return []
        stream = data if len(self._chunks) == 1 else b"".join(self._chunks)
        return self._consume(stream)

    def _consume(self, stream: bytes) -> list[bytes]:
        """Cut whole fragments from the front of ``stream``; keep the rest."""
        messages: list[bytes] = []
        position = 0
        end = len(stream)
        held = sum(len(fragment) for fragment in self._fragments)
        self._need = 4
        while end - position >= 4:
            head = int.from_bytes(stream[position : position + 4], "big")
            length = head & ~LAST_FRAGMENT
            if held + length > self.limit or len(self._fragments) >= MAX_FRAGMENTS:
                self._break(
                    f"a record of {held + length} bytes in {len(self._fragments) + 1} fragments, allowed are {self.limit} bytes"
                )
                return messages
            if end - position - 4 < length:
                self._need = 4 + length
                break
            fragment = stream[position + 4 : position + 4 + length]
            position += 4 + length
            if head & LAST_FRAGMENT:
                messages.append(b"".join((*self._fragments, fragment)) if self._fragments else fragment)
                self._fragments.clear()
                held = 0
            else:
                self._fragments.append(fragment)
                held += length
        rest = stream[position:]
        self._chunks = [rest] if rest else []
        self._buffered = len(rest)
        return messages

    def _break(self, reason: str) -> None:
        """Nothing that follows can be understood."""
        self.broken = reason
        self._chunks = []
        self._fragments = []
        self._buffered = 0

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their message."""
        return self._buffered + sum(len(fragment) for fragment in self._fragments)
