"""Whole numbers that a person types."""

from __future__ import annotations

from kemu.errors import ConfigError


def whole_number(text: str, what: str, low: int, high: int) -> int:
    """Return the integer that was typed; :exc:`ConfigError` says what it may be."""
    if not (text.isascii() and text.isdecimal() and low <= int(text[:20]) <= high):
        raise ConfigError(f"{what} {text!r} cannot be used; it is a whole number from {low} to {high}")
    return int(text)
