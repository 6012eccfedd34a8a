"""Numbers in text as the kernel reads them (2.6.23 lib/vsprintf.c: simple_strtoul(), include/linux/ctype.h).

Interface: :func:`simple_strtoul`, :func:`isspace`, :func:`c_int`, :func:`kernel_text`.

Rules of this file
    * Text is a string of characters up to 255, one per byte (:func:`kernel_text` makes it so): the kernel knows bytes only.
    * The end of the text reads as a NUL, as a C string's does.
"""

from __future__ import annotations

from typing import Final

_SPACE: Final = " \t\n\r\v\f\xa0"  # the kernel's ctype table counts Latin-1's no-break space as a space
_ULONG: Final = (1 << 64) - 1


def kernel_text(text: str | bytes) -> str:
    """Give text as the kernel gets it: one character per byte; any bytes and any string will do."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    return text.decode("latin-1")


def isspace(char: str) -> bool:
    """Tell whether a character is a space; none is not."""
    return char != "" and char in _SPACE


def c_int(value: int) -> int:
    """Store a number in an ``int``: 32 bits, the rest is lost."""
    return (value + (1 << 31) & 0xFFFFFFFF) - (1 << 31)


def simple_strtoul(text: str, at: int) -> tuple[int, int]:
    """Parse digits from ``at``, base 0 (0x hexadecimal, 0 octal): the value, which wraps at 64 bits, and where it ends."""
    base = 10
    if text[at : at + 1] == "0":
        base = 8
        at += 1
        if text[at : at + 1] in ("x", "X") and _digit(text[at + 1 : at + 2]) < 16:
            base = 16
            at += 1
    value = 0
    while (digit := _digit(text[at : at + 1])) < base:
        value = value * base + digit & _ULONG
        at += 1
    return value, at


def _digit(char: str) -> int:
    """Give a hexadecimal digit's value, 99 for anything else."""
    if "0" <= char <= "9":
        return ord(char) - 48
    if "a" <= char <= "f":
        return ord(char) - 87
    return ord(char) - 55 if "A" <= char <= "F" else 99
