"""External data representation (RFC 4506): integers, opaque bytes and strings, in and out.

Interface
    * ``Packer()``: pack_uint, pack_int, pack_uhyper, pack_hyper, pack_bool, pack_fopaque, pack_opaque, pack_string, pack_raw;
      ``bytes()`` joins what was packed.
    * ``Unpacker(data)``: the same with ``unpack_``; ``done()`` insists that nothing is left.
    * ``XdrError``: the only thing that any byte string can make an Unpacker raise.

Rules of this file
    * An item of n bytes is padded with zeros to a multiple of four. Padding that is not zero is accepted, as Linux does.
    * A length is compared with its limit and with what is there before a byte is copied.
    * The data is never copied to move on in it: the Unpacker keeps an offset.
    * A Packer cannot fail on the wire's account: an integer out of range is a defect of the caller (struct.error).
    * Left out: floating point, discriminated unions and optional data as such; callers spell them with pack_bool and pack_uint.
"""

from __future__ import annotations

import struct

from kemu.errors import KemuError

_UINT = struct.Struct("!I")
_INT = struct.Struct("!i")
_UHYPER = struct.Struct("!Q")
_HYPER = struct.Struct("!q")

_pack_uint = _UINT.pack
_pack_int = _INT.pack
_pack_uhyper = _UHYPER.pack
_pack_hyper = _HYPER.pack
_unpack_uint_from = _UINT.unpack_from
_unpack_int_from = _INT.unpack_from
_unpack_uhyper_from = _UHYPER.unpack_from
_unpack_hyper_from = _HYPER.unpack_from

PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length & 3
XDR_TRUE = b"\0\0\0\1"
XDR_FALSE = b"\0\0\0\0"
MAX_OPAQUE = 1 << 24  # where the protocol sets no limit of its own


class XdrError(KemuError):
    """Bytes from the wire do not say what the protocol wants: too short, too long, or a value that does not exist."""


class Packer:
    """Write one message."""

    __slots__ = ("append", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.append = self.parts.append

    def pack_uint(self, value: int) -> None:
        """Write 32 bits without sign; enums too."""
        self.append(_pack_uint(value))

    def pack_int(self, value: int) -> None:
        """Write 32 bits with sign."""
        self.append(_pack_int(value))

    def pack_uhyper(self, value: int) -> None:
        """Write 64 bits without sign."""
        self.append(_pack_uhyper(value))

    def pack_hyper(self, value: int) -> None:
        """Write 64 bits with sign."""
        self.append(_pack_hyper(value))

    def pack_bool(self, value: object) -> None:
        """Write TRUE or FALSE."""
        self.append(XDR_TRUE if value else XDR_FALSE)

    def pack_fopaque(self, data: bytes) -> None:
        """Write bytes whose number both sides know."""
        self.append(data)
        if len(data) & 3:
            self.append(PADDING[len(data) & 3])

    def pack_opaque(self, data: bytes) -> None:
        """Write a length and that many bytes."""
        self.append(_pack_uint(len(data)))
        self.append(data)
        if len(data) & 3:
            self.append(PADDING[len(data) & 3])

    def pack_string(self, text: str | bytes) -> None:
        """Write a string; text goes as UTF-8."""
        self.pack_opaque(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))

    def pack_raw(self, data: bytes) -> None:
        """Write what is XDR already."""
        self.append(data)

    def bytes(self) -> bytes:
        """Join what was packed."""
        return b"".join(self.parts)

    def __len__(self) -> int:
        """Count the bytes packed so far."""
        return sum([len(part) for part in self.parts])


class Unpacker:
    """Read one message.

    :param data: the message; not copied, items are.
    :param offset: where to begin.
    """

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.end = len(data)
        self.offset = offset

    def remaining(self) -> int:
        """Count the bytes not yet read."""
        return self.end - self.offset

    def unpack_uint(self) -> int:
        """Read 32 bits without sign."""
        offset = self.offset
        if offset + 4 > self.end:
            raise XdrError(f"an integer at byte {offset} of {self.end} is cut off")
        self.offset = offset + 4
        value: int = _unpack_uint_from(self.data, offset)[0]
        return value

    def unpack_int(self) -> int:
        """Read 32 bits with sign."""
        offset = self.offset
        if offset + 4 > self.end:
            raise XdrError(f"an integer at byte {offset} of {self.end} is cut off")
        self.offset = offset + 4
        value: int = _unpack_int_from(self.data, offset)[0]
        return value

    def unpack_uhyper(self) -> int:
        """Read 64 bits without sign."""
        offset = self.offset
        if offset + 8 > self.end:
            raise XdrError(f"a hyper integer at byte {offset} of {self.end} is cut off")
        self.offset = offset + 8
        value: int = _unpack_uhyper_from(self.data, offset)[0]
        return value

    def unpack_hyper(self) -> int:
        """Read 64 bits with sign."""
        offset = self.offset
        if offset + 8 > self.end:
            raise XdrError(f"a hyper integer at byte {offset} of {self.end} is cut off")
        self.offset = offset + 8
        value: int = _unpack_hyper_from(self.data, offset)[0]
        return value

    def unpack_bool(self) -> bool:
        """Read TRUE or FALSE; anything else is an error."""
        value = self.unpack_uint()
        if value > 1:
            raise XdrError(f"a boolean at byte {self.offset - 4} is {value}")
        return value == 1

    def unpack_enum(self, allowed: range | tuple[int, ...] | frozenset[int]) -> int:
        """Read an enum; what is not in ``allowed`` is an error."""
        value = self.unpack_uint()
        if value not in allowed:
            raise XdrError(f"an enum at byte {self.offset - 4} is {value}")
        return value

    def unpack_fopaque(self, size: int) -> bytes:
        """Read ``size`` bytes and their padding."""
        start = self.offset
        stop = start + size
        after = stop + (-size & 3)
        if size < 0 or after > self.end:
            raise XdrError(f"{size} bytes at byte {start} of {self.end} are cut off")
        self.offset = after
        return self.data[start:stop]

    def unpack_opaque(self, limit: int = MAX_OPAQUE) -> bytes:
        """Read a length and that many bytes, at most ``limit``."""
        size = self.unpack_uint()
        if size > limit:
            raise XdrError(f"{size} bytes at byte {self.offset - 4}, allowed are {limit}")
        return self.unpack_fopaque(size)

    def unpack_string(self, limit: int = MAX_OPAQUE) -> str:
        """Read a string; bytes that are not UTF-8 are kept as surrogates."""
        return self.unpack_opaque(limit).decode("utf-8", "surrogateescape")

    def skip(self, size: int) -> None:
        """Move over ``size`` bytes and their padding."""
        after = self.offset + size + (-size & 3)
        if size < 0 or after > self.end:
            raise XdrError(f"{size} bytes at byte {self.offset} of {self.end} are cut off")
        self.offset = after

    def done(self) -> None:
        """Insist that the message ends here."""
        if self.offset != self.end:
            raise XdrError(f"{self.end - self.offset} bytes are left over at byte {self.offset}")
