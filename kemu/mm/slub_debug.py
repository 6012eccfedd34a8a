"""Debugging of slab objects: what is checked when (2.6.23 mm/slub.c: CONFIG_SLUB_DEBUG).

Interface
    * :class:`SlubDebug`, ``slub.debug``: made from the boot word ``slub_debug=FZPUT[,cache...]``: F sanity checks, Z red zones,
      P poison, U who took and freed an object, T one line for each. Empty or "-": off; ",cache": FZPU for caches of that name.
    * ``setup_slab``, ``alloc_debug_processing``, ``free_debug_processing``, ``free_slab``, ``validate_slab``: called by SLUB.
    * ``read``, ``write``: the bytes of an object of a cache with debugging; no other objects have any.

Rules of this file
    * Nothing here is reached for a slab without PG_slab_debug: its allocations and frees never leave the fast path for it.
    * What is found is printed in SLUB's words, then repaired as SLUB repairs it (bytes restored, the object not freed, all
      objects of the slab marked used), and then kemu stops where the kernel would go on: :exc:`KernelBug` says the same, and the
      caches pass check() after it.
    * A slab whose objects were all marked used is not checked byte for byte any more.
    * Several cache names are several prefixes (2.6.23 knows one). They are compared with the final name; 2.6.23's kmalloc
      caches of a power of two are all called "kmalloc" when it compares.
    * What a report looks like: slub_report.py. Left out: the list of full slabs (cache.slabs has them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import ConfigError, KernelBug
from kemu.mm.gfp import _GFP_ZERO, gfp_t
from kemu.mm.page import Page
from kemu.mm.slub_geometry import (
    DEBUG_FLAGS,
    DEBUG_LETTERS,
    SLAB_STORE_USER,
    SLAB_TRACE,
)
from kemu.mm.slub_poison import (
    check_object,
    check_padding,
    get_freepointer,
    init_object,
    make_image,
    set_freepointer,
)
from kemu.mm.slub_report import SlubReport, Track, is_object, span

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub_cache import KmemCache


def setup_slub_debug(word: str) -> tuple[int, tuple[str, ...]]:
    """Read the boot word; return flags and the names of the caches that they are for, none for all.

    >>> setup_slub_debug("ZP,dentry") == (SLAB_RED_ZONE | SLAB_POISON, ("dentry",))
    True
    """
    letters, _, names = word.partition(",")
    if not word or letters == "-":
        return 0, ()
    flags = 0 if letters else DEBUG_FLAGS
    for letter in letters.upper():
        if letter not in DEBUG_LETTERS:
            raise ConfigError(
                f"slub_debug option {letter!r} is unknown; there are F, Z, P, U and T, then commas and names of caches"
            )
        flags |= DEBUG_LETTERS[letter]
    return flags, tuple(name for name in names.split(",") if name)


class SlubDebug(SlubReport):
    """The debugging half of a machine's SLUB.

    :param word: the boot word.
    """

    def __init__(self, kernel: Kernel, word: str) -> None:
        super().__init__(kernel)
        self._flags, self._names = setup_slub_debug(word)

    @property
    def enabled(self) -> bool:
        """Tell whether the boot word asks for anything."""
        return self._flags != 0

    def kmem_cache_flags(self, name: str, flags: int) -> int:
        """Add what the boot word wants for a cache (``kmem_cache_flags()``)."""
        return flags | self._flags if not self._names or name.startswith(self._names) else flags

    # what SLUB calls

    def setup_slab(self, cache: KmemCache, page: Page) -> None:
        """Give a fresh slab its bytes; its freelist is there (``setup_object_debug()``)."""
        layout = cache.layout
        image = cache.images[page.pfn] = make_image(cache.bytes_per_slab, cache.objects, layout)
        for at in range(0, (cache.objects - 1) * cache.size, cache.size):
            set_freepointer(image, layout, at, page.address + at + cache.size)
        set_freepointer(image, layout, (cache.objects - 1) * cache.size, 0)

    def alloc_debug_processing(self, cache: KmemCache, page: Page, address: int, gfp: gfp_t = 0) -> None:
        """Check the object that is about to leave its slab's freelist, and make it look allocated, with __GFP_ZERO of zeros."""
        error = self._check_slab(cache, page)
        if error is None and address not in (page.word_d or ()):
            error = self.object_err(cache, page, address, "Object already allocated")
        error = error or self._check_object(cache, page, address, active=False)
        if error is not None:
            # as if all its objects were in use: nobody touches the others any more
            self.printk(f"FIX {cache.name}: Marking all objects used", "err")
            page.mapcount = cache.objects
            page.word_d = None
            cache.images.pop(page.pfn, None)
            raise error
        self._track(cache, address, freed=False)
        self._trace(cache, page, address, "alloc")
        image = cache.images.get(page.pfn)
        if image is not None:
            at = address - page.address
            init_object(image, cache.layout, at, active=True)
            if gfp & _GFP_ZERO:
                image[at : at + cache.objsize] = bytes(cache.objsize)

    def free_debug_processing(self, cache: KmemCache, page: Page, address: int) -> None:
        """Check the object that is about to come back, and make it look free."""
        error = self._check_slab(cache, page)
        if error is None and not is_object(cache, page, address):
            error = self.slab_err(cache, page, f"Invalid object pointer {address:#x}: not the begin of an object")
        if error is None and address in (page.word_d or ()):
            error = self.object_err(cache, page, address, "Object already free")
        if error is None:
            error = self._check_object(cache, page, address, active=True)
            if error is not None:
                raise error  # its bytes are restored; it stays allocated
        if error is not None:
            self.printk(f"FIX {cache.name}: Object at {address:#x} not freed", "err")
            raise error
        self._track(cache, address, freed=True)
        self._trace(cache, page, address, "free")
        image, layout = cache.images.get(page.pfn), cache.layout
        if image is not None:
            at = address - page.address
            init_object(image, layout, at, active=False)
            set_freepointer(image, layout, at, page.word_d[-1] if page.word_d else 0)

    def free_slab(self, cache: KmemCache, page: Page) -> KernelBug | None:
        """Check an empty slab for the last time and forget it; return what was wrong (``__free_slab()``)."""
        error = self._validate(cache, page, in_use=())
        cache.images.pop(page.pfn, None)
        for address in range(page.address, page.address + cache.objects * cache.size, cache.size):
            cache.tracks.pop(address, None)
        return error

    def validate_slab(self, cache: KmemCache, page: Page) -> None:
        """Check every object of a slab (``validate_slab()``)."""
        free = frozenset(page.word_d or ())
        objects = range(page.address, page.address + cache.objects * cache.size, cache.size)
        error = self._validate(cache, page, [address for address in objects if address not in free])
        if error is not None:
            raise error

    # bytes

    def read(self, cache: KmemCache, page: Page, start: int, length: int) -> bytes:
        """Return bytes of a slab, from an address on."""
        image, at = self._bytes_at(cache, page, start, length)
        return bytes(image[at : at + length])

    def write(self, cache: KmemCache, page: Page, start: int, data: bytes) -> None:
        """Write into a slab, whatever lies there: that is what debugging is for."""
        image, at = self._bytes_at(cache, page, start, len(data))
        image[at : at + len(data)] = data

    def _bytes_at(self, cache: KmemCache, page: Page, start: int, length: int) -> tuple[bytearray, int]:
        image = cache.images.get(page.pfn)
        if image is None:
            raise ConfigError(f"objects of {cache.name} have no bytes: boot with slub_debug, or create the cache with a debug flag")
        at = start - page.address
        if at < 0 or length < 0 or at + length > len(image):
            raise ConfigError(f"{length} bytes at {start:#x} do not lie in the slab of {cache.name} at {page.address:#x}")
        return image, at

    # checks: each returns the error, or None

    def _check_slab(self, cache: KmemCache, page: Page) -> KernelBug | None:
        """Check what a slab says of itself, and the padding at its end (``check_slab()``)."""
        if page.mapcount > cache.objects:
            return self.slab_err(cache, page, f"inuse {page.mapcount} > max {cache.objects}")
        counted = cache.objects - len(page.word_d or ())
        if page.mapcount != counted:
            error = self.slab_err(cache, page, f"Wrong object count. Counter is {page.mapcount} but counted were {counted}")
            page.mapcount = counted
            return error
        image = cache.images.get(page.pfn)
        if image is None:
            return None
        fault = check_padding(image, cache.layout, cache.objects)
        if fault is None:
            return None
        error = self.slab_err(cache, page, f"Padding overwritten. {span(page, fault)}")
        self.restore(cache, page, image, fault)
        return error

    def _check_object(self, cache: KmemCache, page: Page, address: int, *, active: bool) -> KernelBug | None:
        """Check the bytes of one object, and its free pointer where nobody may have written over it (``check_object()``)."""
        image, layout = cache.images.get(page.pfn), cache.layout
        if image is None:
            return None
        at = address - page.address
        fault = check_object(image, layout, at, active=active)
        if fault is not None:
            first = f"INFO: {span(page, fault)}. First byte {fault.found:#x} instead of {fault.expected:#x}"
            error = self.object_err(cache, page, address, f"{fault.what} overwritten", first)
            self.restore(cache, page, image, fault)
            return error
        if active and not layout.offset:
            return None
        pointer = get_freepointer(image, layout, at)
        if not pointer or is_object(cache, page, page.address & -1 << 8 * layout.word | pointer):
            return None
        error = self.object_err(cache, page, address, "Freepointer corrupt")
        free = page.word_d or []
        below = free.index(address) if address in free else 0
        set_freepointer(image, layout, at, free[below - 1] if below else 0)  # the kernel loses the rest of the list here
        return error

    def _validate(self, cache: KmemCache, page: Page, in_use: list[int] | tuple[()]) -> KernelBug | None:
        error = self._check_slab(cache, page)
        for address in range(page.address, page.address + cache.objects * cache.size, cache.size):
            error = error or self._check_object(cache, page, address, active=address in in_use)
        return error

    def _track(self, cache: KmemCache, address: int, *, freed: bool) -> None:
        """Note who takes or frees an object (``set_track()``)."""
        if cache.flags & SLAB_STORE_USER:
            task = self.sched.current
            track = Track(task.comm, task.pid, self.sched.cpu.id, self.sched.jiffies)
            allocated, was_freed = cache.tracks.get(address, (None, None))
            cache.tracks[address] = (allocated, track) if freed else (track, was_freed)

    def _trace(self, cache: KmemCache, page: Page, address: int, what: str) -> None:
        if cache.flags & SLAB_TRACE:
            first = page.word_d[-1] if page.word_d else 0
            self.printk(f"TRACE {cache.name} {what} {address:#x} inuse={page.mapcount} fp={first:#x}")


def has_debugging(flags: int) -> bool:
    """Tell whether a cache with these flags is debugged."""
    return flags & (DEBUG_FLAGS | SLAB_TRACE) != 0
