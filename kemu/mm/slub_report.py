"""What SLUB says of an object that is not as it should be (2.6.23 mm/slub.c: slab_bug() to print_trailer()).

Interface
    * :class:`SlubReport`: ``slab_err`` for a slab, ``object_err`` for an object: the report goes to the log, and comes back as the
      :exc:`KernelBug` that says the same. :func:`bad_free` stops at memory that is none of the cache.
    * :class:`Track`: who did something with an object. :func:`is_object`.

Rules of this file
    * "BUG cache: what", then INFO lines: which bytes, who took it and who freed it (age in jiffies), slab, object, bytes in hex.
    * Left out: call addresses (the task's name stands for them), the stack dump.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import attrs

from kemu.errors import KernelBug
from kemu.mm.page import Page, PG_slab
from kemu.mm.slub_geometry import SLAB_STORE_USER
from kemu.mm.slub_poison import Fault, get_freepointer, restore

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub_cache import KmemCache

_SHOWN: Final = 128  # bytes of an object that a report shows


@attrs.frozen
class Track:
    """``struct track``: who did something with an object."""

    comm: str
    pid: int
    cpu: int
    when: int  # jiffies


class SlubReport:
    """Who writes the reports of a machine."""

    def __init__(self, kernel: Kernel) -> None:
        self.sched = kernel.sched
        self.printk = kernel.printk

    def restore(self, cache: KmemCache, page: Page, image: bytearray, fault: Fault) -> None:
        """Write the bytes that should be there, and say so (``restore_bytes()``)."""
        self.printk(f"FIX {cache.name}: Restoring {span(page, fault)}={fault.expected:#x}", "err")
        restore(image, fault)

    def slab_err(self, cache: KmemCache, page: Page, text: str) -> KernelBug:
        """Report a slab (``slab_err()``)."""
        return self._bug(cache, page, text, [_page_info(page)])

    def object_err(self, cache: KmemCache, page: Page, address: int, text: str, *more: str) -> KernelBug:
        """Report an object: who had it, its slab, its bytes (``object_err()``, ``print_trailer()``)."""
        return self._bug(cache, page, f"{text}: object {address:#x}", [*more, *self.trailer(cache, page, address)])

    def trailer(self, cache: KmemCache, page: Page, address: int) -> list[str]:
        """Return the INFO lines of an object (``print_trailer()``)."""
        lines = []
        if cache.flags & SLAB_STORE_USER:
            for what, track in zip(("Allocated", "Freed"), cache.tracks.get(address, ()), strict=False):
                if track is not None:
                    age = self.sched.jiffies - track.when
                    lines.append(f"INFO: {what} in {track.comm} age={age} cpu={track.cpu} pid={track.pid}")
        image, layout = cache.images.get(page.pfn), cache.layout
        at = address - page.address
        pointer = get_freepointer(image, layout, at) if image is not None else 0
        lines += [_page_info(page), f"INFO: Object {address:#x} @offset={at} fp={pointer:#x}"]
        if image is not None:
            lines += _section("Object", address, image[at : at + min(layout.objsize, _SHOWN)])
            if layout.has_red_zone:
                lines += _section("Redzone", address + layout.objsize, image[at + layout.objsize : at + layout.inuse])
            lines += _section("Padding", address + layout.pad, image[at + layout.pad : at + layout.size])
        return lines

    def _bug(self, cache: KmemCache, page: Page, text: str, lines: list[str]) -> KernelBug:
        """Print a report, and return the exception that says the same (``slab_bug()``)."""
        headline = f"BUG {cache.name}: {text}"
        self.printk("\n".join(["=" * 77, headline, "-" * 77, *lines]), "err")
        return KernelBug("\n".join([headline, *lines]), page)


def bad_free(cache: KmemCache, page: Page | None, address: int | None, more: list[str]) -> NoReturn:
    """Stop at an address that ``cache`` never handed out; the kernel would oops, or damage the page's owner."""
    shown = "None" if address is None else f"{address:#x}"
    if page is None:
        raise KernelBug(f"BUG {cache.name}: {shown} is no address of memory")
    if not page.flags & PG_slab:
        raise KernelBug(
            f"BUG {cache.name}: Attempt to free object({shown}) outside of slab: it lies in a page that is no slab", page
        )
    raise KernelBug("\n".join([f"BUG {cache.name}: {shown} belongs to cache {page.private.name}", *more]), page)


def is_object(cache: KmemCache, page: Page, address: int) -> bool:
    """Tell whether an address is the begin of an object of a slab (``check_valid_pointer()``)."""
    offset = address - page.address
    return 0 <= offset < cache.objects * cache.size and offset % cache.size == 0


def span(page: Page, fault: Fault) -> str:
    """Return the first and the last address of wrong bytes."""
    return f"{page.address + fault.start:#x}-{page.address + fault.end - 1:#x}"


def _page_info(page: Page) -> str:
    first = page.word_d[-1] if page.word_d else 0
    return f"INFO: Slab {page.address:#x} used={page.mapcount} fp={first:#x} flags={page.flags:#06x}"


def _section(title: str, address: int, data: bytearray) -> list[str]:
    """Write bytes in rows of 16 (``print_section()``)."""
    lines = []
    for row in range(0, len(data), 16):
        part = data[row : row + 16]
        text = "".join(chr(byte) if 0x21 <= byte <= 0x7E else "." for byte in part)
        lines.append(f"{title if row == 0 else '':>8} {address + row:#x}:  {part.hex(' '):<47} {text}")
    return lines
