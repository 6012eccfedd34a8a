"""The Internet checksum (RFC 1071), by one big-integer remainder.

A sum of 16-bit words with end-around carry is the number's remainder modulo 65535, and ``int.from_bytes`` reads a whole packet as
one big-endian number: both steps run in C. Adding the pseudo header is adding its words to that number.

Interface
    csum_reduce(total)      a large sum made small: what is congruent to it modulo 65535, of at most 1505 bits
    csum_fold(total)        the ones' complement field value for a sum of words
    csum_partial(data)      the unfolded sum of ``data``
    csum_tcpudp_nofold(...) the unfolded sum of a pseudo header
    csum_ok(data, extra)    whether the words of ``data`` and ``extra`` cancel
    csum_tcpudp_magic(...)  the field of a TCP or UDP segment

Rules
    * A word sum that is a multiple of 65535 is valid; an all-zero packet also is, as in the kernel (0 is never sent for UDP).
"""

from __future__ import annotations

#: Up to so many bytes, folding costs more than it spares the division.
CSUM_SMALL = 600

_HALF, _QUARTER, _EIGHTH = ((1 << bits) - 1 for bits in (6016, 3008, 1504))


def csum_reduce(total: int) -> int:
    """Fold the number of a full-size packet three times before it is divided: 2**16 is 1 modulo 65535, and shifts are cheap."""
    total = (total >> 6016) + (total & _HALF)
    total = (total >> 3008) + (total & _QUARTER)
    return (total >> 1504) + (total & _EIGHTH)


def csum_partial(data: bytes) -> int:
    """Give the sum of the big-endian 16-bit words of ``data`` (``csum_partial()``); an odd last byte counts as a high byte."""
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    return total % 65535


def csum_fold(total: int) -> int:
    """Give the value for the checksum field (``csum_fold()``): the complement, 0 to 0xfffe."""
    return -total % 65535


def csum_tcpudp_nofold(saddr: int, daddr: int, length: int, proto: int) -> int:
    """Give the unfolded sum of the pseudo header (``csum_tcpudp_nofold()``); the caller adds it to the segment's sum."""
    return saddr + daddr + length + proto


def csum_ok(data: bytes, extra: int = 0) -> bool:
    """Tell whether ``data``, its own checksum field included, verifies together with ``extra``."""
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    return not (total + extra) % 65535


def csum_tcpudp_magic(saddr: int, daddr: int, proto: int, segment: bytes) -> int:
    """Give the checksum field of a segment whose field is still zero (``csum_tcpudp_magic()``). UDP must send 0 as 0xffff."""
    total = int.from_bytes(segment, "big")
    if len(segment) & 1:
        total <<= 8
    return -(total + saddr + daddr + proto + len(segment)) % 65535
