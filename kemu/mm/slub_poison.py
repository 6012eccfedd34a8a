"""The bytes of a slab that is debugged: poison, red zones, padding, free pointers (2.6.23 mm/slub.c, include/linux/poison.h).

Interface
    * :class:`Layout`: where in an object what lies. :func:`make_image`: the bytes of a fresh slab.
    * :func:`init_object`; :func:`check_object`, :func:`check_padding`: a :class:`Fault`, or None; :func:`restore`.
    * :func:`get_freepointer`, :func:`set_freepointer`.

Rules
    * Pure functions of one bytearray per slab: an overrun reaches the next object, as it does in memory.
    * An object, from its address: its bytes (0x6b, the last one 0xa5, when it is free); up to ``inuse`` the red zone (0xbb free,
      0xcc in use); the free pointer, if it may not lie in the object; two tracks; padding (0x5a) up to the next object. The rest of
      the slab is padding too.
    * An allocated object begins as poison: only a user's write changes it.
    * The free pointer of an object smaller than a word reaches into its red zone. Kernels before 5.13 report that as overrun;
      here those bytes are checked while the object is in use only.
    * The tracks' bytes are reserved, but their contents live in ``cache.tracks``.
"""

from __future__ import annotations

from typing import Final

import attrs

from kemu.mm.slub_geometry import (
    SLAB_DESTROY_BY_RCU,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)

POISON_INUSE: Final = 0x5A
POISON_FREE: Final = 0x6B
POISON_END: Final = 0xA5
SLUB_RED_INACTIVE: Final = 0xBB
SLUB_RED_ACTIVE: Final = 0xCC


@attrs.frozen
class Layout:
    """Where in an object what lies (the ``inuse`` and ``offset`` of ``struct kmem_cache``).

    :ivar inuse: end of the object and its red zone; metadata begin here.
    :ivar offset: where the free pointer is; 0: in the object's first word.
    :ivar pad: where the padding at the end begins.
    :ivar poisons_object: the object's own bytes are poisoned (__OBJECT_POISON): no constructor, no RCU reader needs them.
    """

    objsize: int
    size: int
    inuse: int
    offset: int
    pad: int
    word: int
    has_red_zone: bool
    has_poison: bool
    poisons_object: bool


def make_layout(objsize: int, size: int, flags: int, word: int, *, has_ctor: bool) -> Layout:
    """Lay an object out as ``calculate_sizes()`` of 2.6.23 does.

    Later kernels lay out otherwise, but not smaller: with their geometry the rest is padding.
    """
    inuse = -(-objsize // word) * word
    if flags & SLAB_RED_ZONE and inuse == objsize:
        inuse += word
    end = inuse
    offset = 0
    if has_ctor or flags & (SLAB_DESTROY_BY_RCU | SLAB_POISON):
        offset = inuse
        end += word
    if flags & SLAB_STORE_USER:
        end += 2 * (2 * word + 8)  # struct track: addr, cpu, pid, when
    return Layout(
        objsize,
        size,
        inuse,
        offset,
        min(end, size),
        word,
        has_red_zone=flags & SLAB_RED_ZONE != 0,
        has_poison=flags & SLAB_POISON != 0,
        poisons_object=flags & SLAB_POISON != 0 and not has_ctor and not flags & SLAB_DESTROY_BY_RCU,
    )


@attrs.frozen
class Fault:
    """Bytes that nobody should have written.

    :ivar what: which part, in SLUB's words: "Redzone", "Poison", "Object padding", "Padding".
    :ivar start: offset in the slab of the first wrong byte.
    :ivar end: offset behind the last wrong byte.
    :ivar found: the first wrong byte.
    :ivar expected: what should be there.
    """

    what: str
    start: int
    end: int
    found: int
    expected: int


def make_image(nbytes: int, objects: int, layout: Layout) -> bytearray:
    """Return the bytes of a fresh slab: every object free, each pointing at the next (``new_slab()``, ``setup_object()``)."""
    image = bytearray([POISON_INUSE if layout.has_poison else 0]) * nbytes
    for place in range(objects):
        init_object(image, layout, place * layout.size, active=False)
    return image


def init_object(image: bytearray, layout: Layout, at: int, *, active: bool) -> None:
    """Make an object look free, or just allocated (``init_object()``)."""
    if layout.poisons_object:
        image[at : at + layout.objsize] = _poison(layout.objsize)
    if layout.has_red_zone:
        red = SLUB_RED_ACTIVE if active else SLUB_RED_INACTIVE
        image[at + layout.objsize : at + layout.inuse] = bytes([red]) * (layout.inuse - layout.objsize)


def check_object(image: bytearray, layout: Layout, at: int, *, active: bool) -> Fault | None:
    """Return the first part of an object that was overwritten (``check_object()``)."""
    fault = None
    end = at + layout.objsize
    if layout.has_red_zone:
        begin = end if active or layout.offset else max(end, at + layout.word)
        fault = _check(image, "Redzone", begin, at + layout.inuse, SLUB_RED_ACTIVE if active else SLUB_RED_INACTIVE)
    elif layout.has_poison:
        fault = _check(image, "Alignment padding", end, at + layout.inuse, POISON_INUSE)
    if fault is None and layout.has_poison:
        if not active and layout.poisons_object and image[at:end] != _poison(layout.objsize):
            fault = _check(image, "Poison", at, end - 1, POISON_FREE) or _check(image, "Poison", end - 1, end, POISON_END)
        fault = fault or _check(image, "Object padding", at + layout.pad, at + layout.size, POISON_INUSE)
    return fault


def check_padding(image: bytearray, layout: Layout, objects: int) -> Fault | None:
    """Return what was written behind the last object of a slab (``slab_pad_check()``)."""
    return _check(image, "Padding", objects * layout.size, len(image), POISON_INUSE) if layout.has_poison else None


def restore(image: bytearray, fault: Fault) -> None:
    """Write the bytes that should be there (``restore_bytes()``)."""
    image[fault.start : fault.end] = bytes([fault.expected]) * (fault.end - fault.start)


def get_freepointer(image: bytearray, layout: Layout, at: int) -> int:
    """Return the free pointer of an object; 0 is NULL."""
    return int.from_bytes(image[at + layout.offset : at + layout.offset + layout.word], "little")


def set_freepointer(image: bytearray, layout: Layout, at: int, address: int) -> None:
    """Let an object point at the next free one; 0 is NULL."""
    low = address & (1 << 8 * layout.word) - 1
    image[at + layout.offset : at + layout.offset + layout.word] = low.to_bytes(layout.word, "little")


def _poison(objsize: int) -> bytes:
    return bytes([POISON_FREE]) * (objsize - 1) + bytes([POISON_END])


def _check(image: bytearray, what: str, start: int, end: int, expected: int) -> Fault | None:
    """Return the wrong bytes between two offsets (``check_bytes_and_report()``)."""
    wrong = [place for place in range(start, end) if image[place] != expected] if image[start:end].strip(bytes([expected])) else []
    return Fault(what, wrong[0], wrong[-1] + 1, image[wrong[0]], expected) if wrong else None
