"""Read what a person types for sizes, times and probabilities. Anything but the documented forms is a ConfigError."""

from __future__ import annotations

import re

from kemu.errors import ConfigError

_SIZE = re.compile(r"(\d{1,12})([KMG]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|ms|s|m|h)", re.ASCII)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_TIME_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def parse_size(text: str, what: str, low: int, high: int) -> int:
    """Return bytes for ``16M``, ``1G``, ``4096``; binary units, as the kernel's ``mem=``."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{what} {text!r} is no size; write a number with K, M or G, for example 32M")
    size = int(match[1]) * _SIZE_UNITS[match[2].upper()]
    if not low <= size <= high:
        raise ConfigError(f"{what} {text!r} is out of range; it goes from {format_size(low)} to {format_size(high)}")
    return size


def parse_time(text: str, what: str, low: int, high: int) -> int:
    """Return integer nanoseconds for ``200us``, ``1.5ms``, ``15m``."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{what} {text!r} is no time; write a number with ns, us, ms, s, m or h, for example 200us")
    value = round(float(match[1]) * _TIME_UNITS[match[2]])
    if not low <= value <= high:
        raise ConfigError(f"{what} {text!r} is out of range; it goes from {format_time(low)} to {format_time(high)}")
    return value


def parse_probability(text: str, what: str) -> float:
    """Return a float from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{what} {text!r} is no number; write a probability from 0 to 1, for example 0.01") from None
    if not 0.0 <= value <= 1.0:  # also refuses nan
        raise ConfigError(f"{what} {text!r} is out of range; a probability goes from 0 to 1")
    return value


def format_size(size: int) -> str:
    """Write a size the way :func:`parse_size` reads it."""
    for unit in ("G", "M", "K"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return str(size)


def format_time(ns: int) -> str:
    """Write a time the way :func:`parse_time` reads it."""
    for unit in ("h", "m", "s", "ms", "us"):
        if ns and ns % _TIME_UNITS[unit] == 0:
            return f"{ns // _TIME_UNITS[unit]}{unit}"
    return f"{ns}ns"
