"""Words of a kernel's command line that change slabs: ``slub_max_order=0 slub_debug=FZ,dentry``.

Interface
    * :func:`parse_boot_args`: text -> :class:`BootArgs`. Words that mean nothing here, or make no sense, are passed over, as the
      kernel does.
    * :func:`parse_debug_letters`: what a person typed, which has to make sense.

Rules of this file
    * From 6.9 on the words begin with ``slab_``; both are read.
    * ``slub_debug`` alone is all of F, Z, P, U; ``-`` is nothing. ``FZ,dentry,kmalloc-*;P`` debugs some caches with F and Z and all
      others with P.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Final

import attrs

from kemu.errors import ConfigError
from kemu.mm.geometry import BootWords
from kemu.mm.slub_geometry import DEBUG_FLAGS, DEBUG_LETTERS

_NO_FLAG: Final = "ao-"  # failslab; no debugging where it makes slabs larger; none
_NUMBER: Final = re.compile(r"(slub|slab)_(min_order|max_order|min_objects)=(\d{1,6})", re.ASCII)
_GLOB_SPECIAL: Final = str.maketrans({"[": "[[]", "?": "[?]"})  # the kernel's globs know the star only


@attrs.frozen
class DebugWord:
    """What slub_debug= said: flags for all caches, and before them flags for those that a block names."""

    everywhere: int = 0
    blocks: tuple[tuple[int, tuple[str, ...]], ...] = ()
    small_only: bool = False  # O: only where debugging makes no slab larger

    def flags_of(self, cache: str) -> int:
        """Return the debug flags that a cache of this name gets."""
        for flags, names in self.blocks:
            if any(fnmatchcase(cache, name) for name in names):
                return flags
        return self.everywhere


@attrs.frozen
class BootArgs:
    """The words of the command line."""

    words: BootWords = attrs.field(factory=BootWords)
    debug: DebugWord = attrs.field(factory=DebugWord)


def parse_boot_args(text: str) -> BootArgs:
    """Read a command line."""
    numbers: dict[str, int] = {}
    debug = DebugWord()
    for word in text.split():
        match = _NUMBER.fullmatch(word)
        if match is not None:
            numbers[f"slub_{match[2]}"] = int(match[3])
        elif word in ("slub_debug", "slab_debug"):
            debug = DebugWord(DEBUG_FLAGS)
        elif word.startswith(("slub_debug=", "slab_debug=")):
            debug = _debug_word(word.partition("=")[2])
    return BootArgs(BootWords(**numbers), debug)


def _debug_word(text: str) -> DebugWord:
    """Read blocks of letters and names."""
    everywhere = 0
    blocks: list[tuple[int, tuple[str, ...]]] = []
    small_only = False
    for block in text.split(";"):
        letters, comma, names = block.partition(",")
        flags = _letter_flags(letters) if letters else DEBUG_FLAGS
        small_only |= "o" in letters.lower()
        if comma:
            blocks.append((flags, tuple(name.translate(_GLOB_SPECIAL) for name in names.split(",") if name)))
        else:
            everywhere = flags
    return DebugWord(everywhere, tuple(blocks), small_only)


def _letter_flags(letters: str) -> int:
    """Add up letters; a dash takes back what stands before it."""
    flags = 0
    for letter in letters.upper():
        flags = 0 if letter == "-" else flags | DEBUG_LETTERS.get(letter, 0)
    return flags


def parse_debug_letters(text: str, what: str) -> int:
    """Return the flags of the letters that a person typed."""
    for letter in text.lower():
        if letter.upper() not in DEBUG_LETTERS and letter not in _NO_FLAG:
            raise ConfigError(f"{what} {text!r}: {letter!r} is no letter of slub_debug; they are F, Z, P, U, T, A, O and -")
    return _letter_flags(text)
