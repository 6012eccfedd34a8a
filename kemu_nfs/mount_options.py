"""What a mount can be asked for, as mount(8) and nfs(5) spell it (2.6.23 fs/nfs/super.c, client.c).

Interface
    * :class:`MountOptions`. ``mount_options("rw,hard,intr,rsize=32768")`` reads a text; ``options.text(...)`` writes the line of
      /proc/mounts. ``timeouts(options)`` and ``xprt_timeout(options)``: what becomes of them.

Rules of this file
    * What cannot be is one ConfigError that names the option. Sizes that are only odd are fitted, as the kernel does: below 1024 to
      4096, to powers of two, to what the server has.
    * timeo is in tenths of a second. Without it and retrans the transport's own defaults stand.
    * noac is all four times 0, and sync. actimeo sets all four.
    * Accepted and without effect here: intr, nointr (no signals), lock, nolock, fg, bg, async, ac, cto.
    * Left out: nocto, soft locks, versions other than 3, sec other than sys, posix, noacl.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from kemu.errors import ConfigError
from kemu.kernel.timer import HZ
from kemu_nfs.nfs.attr_cache import AttrTimeouts
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, NFS_PORT
from kemu_nfs.sunrpc.xprt import TCP_TIMEOUT, UDP_TIMEOUT, XprtTimeout

_MAX_SECONDS: Final = (1 << 31) // HZ - 1  # of attribute times; the kernel keeps jiffies in an int
_RANGES: Final = {
    "rsize": (0, 1 << 31),
    "wsize": (0, 1 << 31),
    "timeo": (0, 1 << 24),
    "retrans": (0, 1 << 16),
    "acregmin": (0, _MAX_SECONDS),
    "acregmax": (0, _MAX_SECONDS),
    "acdirmin": (0, _MAX_SECONDS),
    "acdirmax": (0, _MAX_SECONDS),
    "port": (1, 65535),
    "mountport": (1, 65535),
}
_FLAGS: Final[dict[str, dict[str, Any]]] = {
    "rw": {"read_only": False},
    "ro": {"read_only": True},
    "hard": {"soft": False},
    "soft": {"soft": True},
    "sync": {"sync": True},
    "noac": {"noac": True},
    "tcp": {"proto": "tcp"},
    "udp": {"proto": "udp"},
    **{key: {} for key in ("async", "ac", "cto", "intr", "nointr", "lock", "nolock", "fg", "bg")},
}
_FIXED: Final = {"vers": "3", "nfsvers": "3", "sec": "sys"}


@attrs.frozen
class MountOptions:
    """The options of one mount; times in seconds, timeo in tenths, 0 for what the server or the transport prefers."""

    rsize: int = 0
    wsize: int = 0
    timeo: int = 0
    retrans: int = 0
    acregmin: int = 3
    acregmax: int = 60
    acdirmin: int = 30
    acdirmax: int = 60
    noac: bool = False
    sync: bool = False
    soft: bool = False
    read_only: bool = False
    proto: str = "tcp"
    port: int = NFS_PORT
    mountport: int = MOUNT_PORT

    def __attrs_post_init__(self) -> None:
        if self.proto not in ("tcp", "udp"):
            raise ConfigError(f"proto {self.proto!r} cannot be mounted; there are tcp and udp")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"{name} {value!r} cannot be: it is a whole number from {low} to {high}")
        for kind in ("acreg", "acdir"):
            if getattr(self, kind + "min") > getattr(self, kind + "max"):
                raise ConfigError(f"{kind}min is more than {kind}max")

    def text(self, rsize: int, wsize: int, timeout: XprtTimeout, addr: str) -> str:
        """Write the options as /proc/mounts has them (nfs_show_mount_options()); sizes and times are those in use."""
        parts = ["ro" if self.read_only else "rw"]
        parts += ["sync"] if self.sync or self.noac else []
        parts += ["vers=3", f"rsize={rsize}", f"wsize={wsize}"]
        for name, default in (("acregmin", 3), ("acregmax", 60), ("acdirmin", 30), ("acdirmax", 60)):
            seconds = 0 if self.noac else getattr(self, name)
            if seconds != default:
                parts.append(f"{name}={seconds}")
        parts.append("soft" if self.soft else "hard")
        parts += ["noac"] if self.noac else []
        parts += [
            f"proto={self.proto}",
            f"timeo={timeout.initval * 10 // HZ}",
            f"retrans={timeout.retries}",
            "sec=sys",
            f"addr={addr}",
        ]
        return ",".join(parts)


def mount_options(text: str) -> MountOptions:
    """Read options as mount -o takes them; the last word on a thing counts."""
    values: dict[str, Any] = {}
    for item in text.split(","):
        word = item.strip()
        name, equals, value = word.partition("=")
        if not word:
            continue
        if not equals:
            if name not in _FLAGS:
                raise ConfigError(f"{word!r} is no option of an NFS mount, or wants a value")
            values.update(_FLAGS[name])
        elif name in _FIXED:
            if value != _FIXED[name]:
                raise ConfigError(f"{word!r} is not there: only {name}={_FIXED[name]} is")
        elif name == "proto":
            values["proto"] = value
        elif name == "actimeo":
            seconds = _number(word, value)
            if seconds > _MAX_SECONDS:
                raise ConfigError(f"{word!r} cannot be: it is a whole number from 0 to {_MAX_SECONDS}")
            values.update(dict.fromkeys(("acregmin", "acregmax", "acdirmin", "acdirmax"), seconds))
        elif name in _RANGES:
            values[name] = _number(word, value)
        else:
            raise ConfigError(f"{word!r} is no option of an NFS mount")
    return MountOptions(**values)


def _number(word: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise ConfigError(f"{word!r} wants a whole number")
    return int(value)


def timeouts(options: MountOptions) -> AttrTimeouts:
    """Return for how long attributes are good."""
    if options.noac:
        return AttrTimeouts(0, 0, 0, 0)
    return AttrTimeouts(options.acregmin * HZ, options.acregmax * HZ, options.acdirmin * HZ, options.acdirmax * HZ)


def xprt_timeout(options: MountOptions) -> XprtTimeout:
    """Return when a call is sent again and when the server counts as silent (nfs_init_timeout_values())."""
    default = UDP_TIMEOUT if options.proto == "udp" else TCP_TIMEOUT
    initval = min(options.timeo * HZ // 10 or default.initval, default.maxval)
    increment = initval if default.increment else 0
    return attrs.evolve(default, initval=initval, increment=increment, retries=options.retrans or default.retries)
