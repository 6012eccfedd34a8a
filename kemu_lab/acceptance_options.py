"""What ``kemu run acceptance`` can be asked for, beyond the options of every run.

Interface: :class:`AcceptanceOptions` with ``parse(...)`` and ``words()``; ``parse_scale(text)`` and ``scale_of(mem)``.

Rules of this file
    * Memory and processes are scaled together, so the scale is kept as the memory's size and as nothing else.
    * A quarter is the smallest scale: the reserve does not shrink with memory, and of 16 MiB it would take half.
"""

from __future__ import annotations

import re
from fractions import Fraction

import attrs

from kemu.errors import ConfigError
from kemu_lab.numbers import whole_number
from kemu_lab.quantities import format_time, parse_time

FULL_MEM = 128 << 20
MIN_SCALE, MAX_SCALE = Fraction(1, 4), Fraction(8)
DEFAULT_OUTAGE_NS = 15 * 60 * 10**9
MAX_OUTAGE_NS = 24 * 3600 * 10**9
FOREVER = "forever"
OUTAGES = ("stop", "silent")
TRAFFIC = ("mixed", "udp-flood", "fragments", "none")
PROTOCOLS = ("tcp", "udp")
MAX_UID = 2**32 - 2
_SCALE = re.compile(r"\d{1,6}(\.\d{1,6}|/0*[1-9]\d{0,5})?", re.ASCII)


@attrs.frozen
class AcceptanceOptions:
    """The outage, the traffic, and who swaps over what.

    :param outage_ns: how long the server is away; 0: it never goes; None: it never comes back.
    :param outage_how: "stop": nfsd ends, and connects are refused; "silent": frames to and from the server vanish.
    :param traffic: the floods: "mixed", "udp-flood", "fragments" or "none"; the background goes on with all of them.
    :param uid: of the processes; the swap file is root's.
    :param proto: of the mount.
    """

    outage_ns: int | None = DEFAULT_OUTAGE_NS
    outage_how: str = "stop"
    traffic: str = "mixed"
    uid: int = 0
    proto: str = "tcp"

    @classmethod
    def parse(
        cls,
        *,
        outage: str | None = None,
        outage_how: str | None = None,
        never_returns: bool = False,
        traffic: str | None = None,
        uid: str | None = None,
        proto: str | None = None,
    ) -> AcceptanceOptions:
        """Read the options as typed; what is not given keeps its default."""
        plain = cls()
        if never_returns and outage not in (None, FOREVER):
            raise ConfigError(f"--never-returns and --outage {outage} contradict each other; give one of them")
        return cls(
            outage_ns=None if never_returns or outage == FOREVER else _outage(outage, plain.outage_ns),
            outage_how=_one_of(outage_how, OUTAGES, "--outage-how", plain.outage_how),
            traffic=_one_of(traffic, TRAFFIC, "--traffic", plain.traffic),
            uid=plain.uid if uid is None else whole_number(uid, "--uid", 0, MAX_UID),
            proto=_one_of(proto, PROTOCOLS, "--proto", plain.proto),
        )

    def words(self) -> list[str]:
        """Return the words of the command line that differ from the defaults."""
        plain = AcceptanceOptions()
        words = []
        if self.outage_ns != plain.outage_ns:
            words += ["--outage", FOREVER if self.outage_ns is None else format_time(self.outage_ns) if self.outage_ns else "0"]
        for option, value, default in (
            ("--outage-how", self.outage_how, plain.outage_how),
            ("--traffic", self.traffic, plain.traffic),
            ("--uid", str(self.uid), str(plain.uid)),
            ("--proto", self.proto, plain.proto),
        ):
            if value != default:
                words += [option, value]
        return words


def _outage(text: str | None, default: int | None) -> int | None:
    """Read a time; a plain 0 needs no unit."""
    if text is None:
        return default
    return 0 if text.strip() == "0" else parse_time(text, "--outage", 0, MAX_OUTAGE_NS)


def _one_of(text: str | None, known: tuple[str, ...], option: str, default: str) -> str:
    """Read a word."""
    if text is None:
        return default
    if text not in known:
        raise ConfigError(f"{option} {text!r} is not known; there are {', '.join(known)}")
    return text


def parse_scale(text: str) -> int:
    """Return bytes of memory for ``1/4``, ``0.5``, ``1``."""
    if _SCALE.fullmatch(text.strip()) is None:
        raise ConfigError(f"--scale {text!r} is no number; write a fraction, for example 1/4")
    scale = Fraction(text.strip())
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise ConfigError(f"--scale {text!r} is out of range; it goes from {MIN_SCALE} to {MAX_SCALE}")
    mem = FULL_MEM * scale
    if mem.denominator != 1 or mem.numerator % (1 << 20):
        raise ConfigError(f"--scale {text!r} gives no whole MiB of memory; 1/4, 1/2, 3/4 and 1 do")
    return mem.numerator


def scale_of(mem: int) -> str:
    """Write the scale the way :func:`parse_scale` reads it."""
    return str(Fraction(mem, FULL_MEM))
