"""Write a pcapng file: the format of Wireshark's captures, in which a frame may carry comments.

Interface: ``PcapngWriter(file)`` with ``interface(name, description, mac) -> number`` and ``packet(number, time, frame, ...)``.

Rules of this file
    * One section, little-endian. All interfaces are Ethernet and count time in nanoseconds. Frames are whole.
    * An option is a code, a length and a value padded to four bytes; a list of them ends with an empty one. A block's length stands
      at both of its ends (draft-ietf-opsawg-pcapng).
    * Left out: reading; name resolution, statistics and secrets; the length of the section, which is given as unknown.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable

SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
LINKTYPE_ETHERNET = 1
OPT_COMMENT, SHB_USERAPPL, IF_NAME, IF_DESCRIPTION, IF_MACADDR, IF_TSRESOL, EPB_FLAGS = 1, 4, 2, 3, 6, 9, 2
NANOSECONDS = b"\x09"  # powers of ten
INBOUND, OUTBOUND = 1, 2  # the two low bits of epb_flags
MAX_COMMENT = 65535  # the length of an option is a 16 bit number


class PcapngWriter:
    """Write blocks to a binary file."""

    def __init__(self, file: BinaryIO, application: str = "kemu") -> None:
        self.file = file
        self.interfaces = 0
        body = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
        self._block(SECTION_HEADER, body + _options([(SHB_USERAPPL, application.encode())]))

    def interface(self, name: str, description: str, mac: bytes) -> int:
        """Describe a NIC; return the number by which packets name it."""
        options = [(IF_NAME, name.encode()), (IF_DESCRIPTION, description.encode()), (IF_MACADDR, mac), (IF_TSRESOL, NANOSECONDS)]
        self._block(INTERFACE_DESCRIPTION, struct.pack("<HHI", LINKTYPE_ETHERNET, 0, 0) + _options(options))
        self.interfaces += 1
        return self.interfaces - 1

    def packet(self, interface: int, time: int, frame: bytes, direction: int, comments: Iterable[str] = ()) -> None:
        """Write one frame with its time in ns, INBOUND or OUTBOUND, and what is to be said of it."""
        size = len(frame)
        options = [(OPT_COMMENT, comment.encode()[:MAX_COMMENT]) for comment in comments]
        options.append((EPB_FLAGS, struct.pack("<I", direction)))
        head = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFFFFFF, size, size)
        self._block(ENHANCED_PACKET, b"".join((head, frame, bytes(-size % 4), _options(options))))

    def _block(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self.file.write(b"".join((struct.pack("<II", kind, length), body, struct.pack("<I", length))))


def _options(options: list[tuple[int, bytes]]) -> bytes:
    """Encode a list of options."""
    parts = [struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in options]
    return b"".join(parts) + b"\0\0\0\0"
