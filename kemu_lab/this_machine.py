"""What the running Linux kernel says of itself, in the formats of tests/truth.

Interface: :func:`slab_table_text` from /sys/kernel/slab, :func:`marks_text` from /proc/zoneinfo; :exc:`ConfigError` where that
cannot be read.
"""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

from kemu.errors import ConfigError

SLAB = Path("/sys/kernel/slab")
PROC = Path("/proc")
CPUS = Path("/sys/devices/system/cpu")
_NUMBERS = (
    "object_size",
    "slab_size",
    "align",
    "order",
    "objs_per_slab",
    "min_partial",
    "cpu_partial",
    "hwcache_align",
    "destroy_by_rcu",
    "red_zone",
    "poison",
    "store_user",
)
_VM = ("min_free_kbytes", "watermark_scale_factor", "lowmem_reserve_ratio")
_ZONE = re.compile(r"^Node +(\d+), zone +(\w+)$", re.ASCII)
_FIELD = re.compile(r"^ +(?:pages )?(boost|min|low|high|spanned|present|managed) +(\d+)$", re.ASCII)
_PROTECTION = re.compile(r"^ +protection: \(([\d, ]*)\)$", re.ASCII)


def slab_table_text() -> str:
    """Read /sys/kernel/slab; aliases of merged caches are links, and passed over."""
    if not SLAB.is_dir():
        raise ConfigError(f"--this-machine: there is no {SLAB}; it takes a Linux kernel with SLUB")
    caches = {folder.name: _cache(folder) for folder in sorted(SLAB.iterdir()) if folder.is_dir() and not folder.is_symlink()}
    return json.dumps(
        {
            "release": platform.release(),
            "arch": platform.machine(),
            "present_cpus": _cpus(),
            "boot_args": _read(PROC / "cmdline"),
            "slab": caches,
        }
    )


def _cache(folder: Path) -> dict[str, int]:
    row = {}
    for name in _NUMBERS:
        if (folder / name).exists():
            row[name] = int(_read(folder / name).split()[0])
    return row


def _cpus() -> int:
    """Count present CPUs; where there is one, the kernel takes the number of possible ones instead."""
    present = _count_list(_read(CPUS / "present"))
    return present if present > 1 else _count_list(_read(CPUS / "possible"))


def _count_list(text: str) -> int:
    """Count what a list like ``0-3,8`` names."""
    total = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def marks_text() -> str:
    """Read /proc/zoneinfo and the sysctls that decide its marks."""
    if not (PROC / "zoneinfo").exists():
        raise ConfigError(f"--this-machine: there is no {PROC / 'zoneinfo'}; it takes a Linux kernel")
    sysctl = {}
    for name in _VM:
        if (PROC / "sys/vm" / name).exists():
            sysctl[f"vm/{name}"] = [int(word) for word in _read(PROC / "sys/vm" / name).split()]
    return json.dumps({"release": platform.release(), "zones": _zones(_read(PROC / "zoneinfo")), "sysctl": sysctl})


def _zones(text: str) -> list[dict[str, Any]]:
    """Parse zoneinfo: of each zone the numbers that its marks depend on."""
    zones: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := _ZONE.match(line):
            zones.append({"node": int(match[1]), "zone": match[2], "boost": 0})
        elif match := _FIELD.match(line):
            zones[-1].setdefault(match[1], int(match[2]))
            if match[1] == "boost":
                zones[-1]["boost"] = int(match[2])
        elif match := _PROTECTION.match(line):
            zones[-1]["protection"] = [int(word) for word in match[1].split(",")]
    return zones


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except PermissionError:
        raise ConfigError(f"--this-machine: {path} may not be read; only root may") from None
    except OSError as error:
        raise ConfigError(f"--this-machine: {path}: {error.strerror}") from None
