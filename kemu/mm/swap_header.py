"""The first page of a swap area (``union swap_header``): what mkswap writes and swapon reads.

Interface
    * :func:`mkswap_header`, :func:`read_header`.

Rules of this file
    * "SWAPSPACE2" stands in the last ten bytes of the page; version, last_page and the list of bad pages at 1024.
    * 2.6.23 reads last_page as the number of slots, so the very last page of an area is never used.
"""

from __future__ import annotations

import struct
from typing import Final

from kemu.mm.gfp import PAGE_SIZE

MAGIC: Final = b"SWAPSPACE2"
MAX_SWAP_BADPAGES: Final = 637
_INFO: Final = struct.Struct("<III")  # version, last_page, nr_badpages; the list follows the uuid, label and padding
_INFO_AT: Final = 1024
_BADPAGES_AT: Final = 1024 + 512


def mkswap_header(pages: int, bad: tuple[int, ...] = ()) -> bytes:
    """Return the header page of an area of ``pages`` pages, the header included."""
    page = bytearray(PAGE_SIZE)
    _INFO.pack_into(page, _INFO_AT, 1, pages - 1, len(bad))
    struct.pack_into(f"<{len(bad)}I", page, _BADPAGES_AT, *bad)
    page[-len(MAGIC) :] = MAGIC
    return bytes(page)


def read_header(page: bytes) -> tuple[int, tuple[int, ...]] | str:
    """Return last_page and the bad pages, or what is wrong with the header, in the kernel's words."""
    if page[-len(MAGIC) :] != MAGIC:
        return "Unable to find swap-space signature"
    version, last_page, nr_badpages = _INFO.unpack_from(page, _INFO_AT)
    if version != 1:
        return f"Unable to handle swap header version {version}"
    if nr_badpages > MAX_SWAP_BADPAGES:
        return "Too many bad pages in the swap header"
    bad: tuple[int, ...] = struct.unpack_from(f"<{nr_badpages}I", page, _BADPAGES_AT)
    if any(not 0 < offset < last_page for offset in bad):
        return "A bad page of the swap header is outside the area"
    return last_page, bad
