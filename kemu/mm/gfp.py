"""The words in which memory is asked for: gfp bits, ALLOC_* flags, page geometry (include/linux/gfp.h, mm/internal.h).

Interface
    * ``_GFP_*`` and ``GFP_*``: what a caller says. Values are those of 2.6.23-mm1 (and 2.6.24); what 2.6.23 has otherwise is called
      ``*_2623``: no __GFP_RECLAIMABLE, __GFP_MOVABLE in its place, GFP_LEVEL_MASK in the slab allocators.
    * ``ALLOC_*``: what the page allocator makes of it, numbered as patch 01 numbers them; ``ALLOC_*_2623`` is the base's numbering.
    * :func:`decode_gfp`, :func:`parse_gfp`, :func:`decode_alloc_flags` for people; :func:`get_order`.

Rules of this file
    * Flags are plain ints. The kernel's leading ``__`` is written ``_`` in code and ``__`` in what people read.
    * With patch 10 off, bit 0x2000 means nothing: who tests it has the guard.
    * What decode_gfp() writes, parse_gfp() reads back. Bad text is a ConfigError, whatever it is.
    * SLUB passes to the page allocator what is in GFP_RECLAIM_MASK or GFP_CONSTRAINT_MASK and drops the rest without a word.
"""

from __future__ import annotations

from typing import Final

from kemu.errors import ConfigError

gfp_t = int
alloc_flags_t = int

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
MAX_ORDER: Final = 11  # orders 0 to 10
PAGE_ALLOC_COSTLY_ORDER: Final = 3  # above it an allocation may fail although its caller can wait

_GFP_DMA: Final = 0x01
_GFP_HIGHMEM: Final = 0x02
_GFP_DMA32: Final = 0x04
_GFP_WAIT: Final = 0x10
_GFP_HIGH: Final = 0x20
_GFP_IO: Final = 0x40
_GFP_FS: Final = 0x80
_GFP_COLD: Final = 0x100
_GFP_NOWARN: Final = 0x200
_GFP_REPEAT: Final = 0x400
_GFP_NOFAIL: Final = 0x800
_GFP_NORETRY: Final = 0x1000
_GFP_MEMALLOC: Final = 0x2000  # patch 10
_GFP_COMP: Final = 0x4000
_GFP_ZERO: Final = 0x8000
_GFP_NOMEMALLOC: Final = 0x10000
_GFP_HARDWALL: Final = 0x20000
_GFP_THISNODE: Final = 0x40000
_GFP_RECLAIMABLE: Final = 0x80000
_GFP_MOVABLE: Final = 0x100000

_GFP_MOVABLE_2623: Final = 0x80000  # there is no __GFP_RECLAIMABLE in 2.6.23

GFP_ZONEMASK: Final = _GFP_DMA | _GFP_HIGHMEM | _GFP_DMA32
GFP_BITS_SHIFT: Final = 21
GFP_BITS_SHIFT_2623: Final = 20
GFP_BITS_MASK: Final = (1 << GFP_BITS_SHIFT) - 1

GFP_NOWAIT: Final = 0x00  # GFP_ATOMIC without __GFP_HIGH
GFP_ATOMIC: Final = _GFP_HIGH
GFP_NOIO: Final = _GFP_WAIT
GFP_NOFS: Final = _GFP_WAIT | _GFP_IO
GFP_KERNEL: Final = _GFP_WAIT | _GFP_IO | _GFP_FS
GFP_TEMPORARY: Final = GFP_KERNEL | _GFP_RECLAIMABLE  # freed soon
GFP_USER: Final = GFP_KERNEL | _GFP_HARDWALL
GFP_HIGHUSER: Final = GFP_USER | _GFP_HIGHMEM
GFP_HIGHUSER_MOVABLE: Final = GFP_HIGHUSER | _GFP_MOVABLE
GFP_NOFS_PAGECACHE: Final = GFP_NOFS | _GFP_MOVABLE
GFP_USER_PAGECACHE: Final = GFP_USER | _GFP_MOVABLE
GFP_HIGHUSER_PAGECACHE: Final = GFP_HIGHUSER | _GFP_MOVABLE
GFP_THISNODE: Final = _GFP_THISNODE | _GFP_NOWARN | _GFP_NORETRY  # of a NUMA kernel; 0 without NUMA
GFP_DMA: Final = _GFP_DMA
GFP_DMA32: Final = _GFP_DMA32
GFP_MOVABLE_MASK: Final = _GFP_RECLAIMABLE | _GFP_MOVABLE

# What SLUB passes on to the page allocator besides the constraints; patch 10 adds its bit.
GFP_RECLAIM_MASK_BASE: Final = (
    _GFP_WAIT | _GFP_HIGH | _GFP_IO | _GFP_FS | _GFP_NOWARN | _GFP_REPEAT | _GFP_NOFAIL | _GFP_NORETRY | _GFP_NOMEMALLOC
)
GFP_RECLAIM_MASK: Final = GFP_RECLAIM_MASK_BASE | _GFP_MEMALLOC
GFP_CONSTRAINT_MASK: Final = _GFP_HARDWALL | _GFP_THISNODE
GFP_SLAB_BUG_MASK: Final = _GFP_DMA32 | _GFP_HIGHMEM | ~GFP_BITS_MASK  # not to be said to a slab allocator: BUG()
# 2.6.23 has no such masks: its slab allocators pass on what they know, and BUG() on what they do not.
GFP_LEVEL_MASK_2623: Final = GFP_RECLAIM_MASK_BASE | _GFP_COLD | _GFP_COMP | _GFP_HARDWALL | _GFP_THISNODE | _GFP_MOVABLE_2623

# mm/internal.h after patch 01
ALLOC_HARDER: Final = 0x01  # try to allocate harder
ALLOC_HIGH: Final = 0x02  # __GFP_HIGH set
ALLOC_WMARK_MIN: Final = 0x04  # use pages_min
ALLOC_WMARK_LOW: Final = 0x08  # use pages_low
ALLOC_WMARK_HIGH: Final = 0x10  # use pages_high
ALLOC_NO_WATERMARKS: Final = 0x20  # do not look at any mark
ALLOC_CPUSET: Final = 0x40  # respect the cpuset

# mm/page_alloc.c of 2.6.23, before patch 01
ALLOC_NO_WATERMARKS_2623: Final = 0x01
ALLOC_WMARK_MIN_2623: Final = 0x02
ALLOC_WMARK_LOW_2623: Final = 0x04
ALLOC_WMARK_HIGH_2623: Final = 0x08
ALLOC_HARDER_2623: Final = 0x10
ALLOC_HIGH_2623: Final = 0x20
ALLOC_CPUSET_2623: Final = 0x40

# The kernel's name of every bit; code writes one underscore less.
_GFP_NAMES: Final[dict[str, gfp_t]] = {
    "__GFP_DMA": _GFP_DMA,
    "__GFP_HIGHMEM": _GFP_HIGHMEM,
    "__GFP_DMA32": _GFP_DMA32,
    "__GFP_WAIT": _GFP_WAIT,
    "__GFP_HIGH": _GFP_HIGH,
    "__GFP_IO": _GFP_IO,
    "__GFP_FS": _GFP_FS,
    "__GFP_COLD": _GFP_COLD,
    "__GFP_NOWARN": _GFP_NOWARN,
    "__GFP_REPEAT": _GFP_REPEAT,
    "__GFP_NOFAIL": _GFP_NOFAIL,
    "__GFP_NORETRY": _GFP_NORETRY,
    "__GFP_MEMALLOC": _GFP_MEMALLOC,
    "__GFP_COMP": _GFP_COMP,
    "__GFP_ZERO": _GFP_ZERO,
    "__GFP_NOMEMALLOC": _GFP_NOMEMALLOC,
    "__GFP_HARDWALL": _GFP_HARDWALL,
    "__GFP_THISNODE": _GFP_THISNODE,
    "__GFP_RECLAIMABLE": _GFP_RECLAIMABLE,
    "__GFP_MOVABLE": _GFP_MOVABLE,
}
# Largest first: decode_gfp() takes the first that fits.
_GFP_COMBINATIONS: Final[dict[str, gfp_t]] = {
    "GFP_HIGHUSER_MOVABLE": GFP_HIGHUSER_MOVABLE,
    "GFP_HIGHUSER": GFP_HIGHUSER,
    "GFP_USER": GFP_USER,
    "GFP_KERNEL": GFP_KERNEL,
    "GFP_NOFS": GFP_NOFS,
    "GFP_NOIO": GFP_NOIO,
    "GFP_ATOMIC": GFP_ATOMIC,
}
# What else may be said; decode_gfp() does not use these.
_GFP_ALIASES: Final[dict[str, gfp_t]] = {
    "GFP_NOWAIT": GFP_NOWAIT,
    "GFP_TEMPORARY": GFP_TEMPORARY,
    "GFP_NOFS_PAGECACHE": GFP_NOFS_PAGECACHE,
    "GFP_USER_PAGECACHE": GFP_USER_PAGECACHE,
    "GFP_HIGHUSER_PAGECACHE": GFP_HIGHUSER_PAGECACHE,
    "GFP_THISNODE": GFP_THISNODE,
    "GFP_DMA": GFP_DMA,
    "GFP_DMA32": GFP_DMA32,
}
_GFP_WORDS: Final = {**_GFP_NAMES, **_GFP_COMBINATIONS, **_GFP_ALIASES}
_ALL_BITS: Final = sum(_GFP_NAMES.values())
# alloc flag, its value before patch 01, its name
_ALLOC_FLAGS: Final = (
    (ALLOC_HARDER, ALLOC_HARDER_2623, "ALLOC_HARDER"),
    (ALLOC_HIGH, ALLOC_HIGH_2623, "ALLOC_HIGH"),
    (ALLOC_WMARK_MIN, ALLOC_WMARK_MIN_2623, "ALLOC_WMARK_MIN"),
    (ALLOC_WMARK_LOW, ALLOC_WMARK_LOW_2623, "ALLOC_WMARK_LOW"),
    (ALLOC_WMARK_HIGH, ALLOC_WMARK_HIGH_2623, "ALLOC_WMARK_HIGH"),
    (ALLOC_NO_WATERMARKS, ALLOC_NO_WATERMARKS_2623, "ALLOC_NO_WATERMARKS"),
    (ALLOC_CPUSET, ALLOC_CPUSET_2623, "ALLOC_CPUSET"),
)


def get_order(size: int) -> int:
    """Return the smallest order whose block holds ``size`` bytes (include/asm-generic/page.h: get_order)."""
    return max(0, size - 1).bit_length() - PAGE_SHIFT if size > PAGE_SIZE else 0


def decode_gfp(gfp: gfp_t, *, mainline: bool = False) -> str:
    """Write a gfp mask as people read it.

    :param mainline: the mask comes from a 2.6.23 kernel without -mm1.

    >>> decode_gfp(0x2020)
    'GFP_ATOMIC|__GFP_MEMALLOC'
    >>> decode_gfp(0x80010), decode_gfp(0x80010, mainline=True)
    ('GFP_NOIO|__GFP_RECLAIMABLE', 'GFP_NOIO|__GFP_MOVABLE')
    >>> decode_gfp(0)
    'GFP_NOWAIT'
    """
    unknown = gfp & ~GFP_BITS_MASK
    rest = gfp & GFP_BITS_MASK
    if mainline:
        rest, more = _from_mainline(rest)
        unknown |= more
    names = []
    for name, value in _GFP_COMBINATIONS.items():
        if rest & value == value:
            names.append(name)
            rest &= ~value
            break
    names += [name for name, value in _GFP_NAMES.items() if rest & value]
    unknown |= rest & ~_ALL_BITS  # 0x08 has no name
    if unknown:
        names.append(hex(unknown))
    return "|".join(names) or "GFP_NOWAIT"


def parse_gfp(text: str, *, mainline: bool = False) -> gfp_t:
    """Read what :func:`decode_gfp` writes, and numbers. The result has -mm1's bits.

    :param mainline: numbers in the text are those of a 2.6.23 kernel without -mm1.

    >>> hex(parse_gfp("GFP_KERNEL | __GFP_NOMEMALLOC"))
    '0x100d0'
    """
    gfp = 0
    shift = GFP_BITS_SHIFT_2623 if mainline else GFP_BITS_SHIFT
    for word in (word.strip() for word in text.split("|")):
        if word in _GFP_WORDS:
            gfp |= _GFP_WORDS[word]
            continue
        try:
            value = int(word, 0)
        except ValueError:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise ConfigError(f"gfp {shown!r}: not all are flags; write GFP_* and __GFP_* names or numbers joined by |") from None
        if value >> shift:
            raise ConfigError(f"gfp: {value:#x} has bits above the {shift} that exist")
        gfp |= _from_mainline(value)[0] if mainline else value
    return gfp


def _from_mainline(gfp: gfp_t) -> tuple[gfp_t, gfp_t]:
    """Give a mask of 2.6.23 -mm1's bits; and what is left that 2.6.23 does not have."""
    unknown = gfp & ~((1 << GFP_BITS_SHIFT_2623) - 1)
    known = gfp & ~unknown & ~_GFP_MOVABLE_2623
    return known | (_GFP_MOVABLE if gfp & _GFP_MOVABLE_2623 else 0), unknown


def decode_alloc_flags(alloc_flags: alloc_flags_t, *, base: bool = False) -> str:
    """Write ALLOC_* flags by name.

    :param base: the flags have the numbers that they had before patch 01.

    >>> decode_alloc_flags(0x07)
    'ALLOC_HARDER|ALLOC_HIGH|ALLOC_WMARK_MIN'
    >>> decode_alloc_flags(0x32, base=True)
    'ALLOC_HARDER|ALLOC_HIGH|ALLOC_WMARK_MIN'
    """
    return "|".join(name for flag, before, name in _ALLOC_FLAGS if alloc_flags & (before if base else flag)) or "0"


def alloc_flags_2623(alloc_flags: alloc_flags_t) -> alloc_flags_t:
    """Return the value that the base's numbering gives to the same flags."""
    return sum(before for flag, before, _ in _ALLOC_FLAGS if alloc_flags & flag)
