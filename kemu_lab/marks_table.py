"""Tables of watermarks as kernels show them, and where kemu's formulas differ from one.

Interface
    * :func:`read_marks`: JSON text -> :class:`MarksTable`: a list of points as in tests/truth/watermark-sweep.json, one such point,
      or a table of slab caches with its zones and sysctls. :exc:`ConfigError` for anything else.
    * :func:`compare_marks`: a :class:`MarkDifference` for every number that comes out otherwise.

Rules of this file
    * A zone without ``managed`` counts with what is ``present``, as in 2.6.23. ``boost`` is taken off what was printed.
    * HighMem has marks of its own. So has Movable where its pages are highmem; from 6.1's later relatives on (6.18), always.
    * Protections are of one node, and need the ratios; marks need min_free_kbytes. What a point does not say is not judged.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from kemu.errors import ConfigError
from kemu.mm.policies import check_policy, marks_of, policy_of_release
from kemu_lab.slab_table import MAX_NUMBER, read_json

MARKS: Final = ("min", "low", "high")
_MAX_ZONES: Final = 4096
_PAGES: Final = ("managed", "present", "boost", *MARKS, "node")
DEFAULT_POLICY: Final = "6.1"


@attrs.frozen
class Zone:
    """One zone as a kernel printed it."""

    name: str
    node: int
    managed: int
    marks: tuple[int, int, int] | None
    protection: list[int] | None


@attrs.frozen
class Point:
    """Sysctls, and the zones that they made."""

    label: str
    zones: list[Zone]
    min_free_kbytes: int | None
    scale: int | None
    ratios: list[int] | None


@attrs.frozen
class MarksTable:
    """All points of one file."""

    policy: str
    points: list[Point]
    of_slabs: bool = False  # its marks may be those of boot, when fewer pages were managed than it prints


@attrs.frozen
class MarkDifference:
    """One zone of one point."""

    point: str
    zone: str
    field: str
    computed: list[int]
    table: list[int]

    def __str__(self) -> str:
        """Say it in a line."""
        found, computed = (" ".join(map(str, numbers)) for numbers in (self.table, self.computed))
        return f"{self.point}: zone {self.zone}: {self.field} is {found} in the table, and {computed} by the formula"


def read_marks(text: str | bytes, where: str, *, policy: str | None = None) -> MarksTable:
    """Read a table; a policy that is given goes before the one that fits its release."""
    data = read_json(text, where)
    release = data.get("release") if isinstance(data, dict) else None
    if policy is None:
        policy = policy_of_release(release) if isinstance(release, str) else DEFAULT_POLICY
    points = data if isinstance(data, list) else [data]
    if not points:
        raise ConfigError(f"{where}: this table of watermarks is empty")
    read = [_point(each, f"{where}: point {number}") for number, each in enumerate(points, 1)]
    return MarksTable(check_policy(policy), read, isinstance(data, dict) and "slab" in data)


def _point(data: Any, where: str) -> Point:
    if not isinstance(data, dict) or not isinstance(data.get("zones"), list) or len(data["zones"]) > _MAX_ZONES:
        raise ConfigError(f"{where}: this is no point of a table of watermarks; it has no list 'zones'")
    sysctl = data.get("sysctl", {})
    if not isinstance(sysctl, dict):
        raise ConfigError(f"{where}: sysctl is no object")
    kbytes = _one(data.get("min_free_kbytes", sysctl.get("vm/min_free_kbytes")), f"{where}: min_free_kbytes")
    scale = _one(data.get("scale", sysctl.get("vm/watermark_scale_factor")), f"{where}: scale")
    ratios = data.get("lowmem_reserve_ratio", sysctl.get("vm/lowmem_reserve_ratio"))
    if kbytes is None and ratios is None:
        raise ConfigError(f"{where}: neither min_free_kbytes nor lowmem_reserve_ratio is there")
    words = [f"min_free_kbytes {kbytes}"] if kbytes is not None else []
    words += [f"scale {scale}"] if scale is not None else []
    if ratios is not None:
        ratios = _numbers(ratios, f"{where}: lowmem_reserve_ratio")
        words.append(f"lowmem_reserve_ratio {' '.join(map(str, ratios))}")
    return Point(", ".join(words), [_zone(each, where) for each in data["zones"]], kbytes, scale, ratios)


def _zone(data: Any, where: str) -> Zone:
    if not isinstance(data, dict) or not isinstance(data.get("zone"), str):
        raise ConfigError(f"{where}: a zone is no object with a name in 'zone'")
    name = data["zone"][:40]
    numbers = {key: _one(data[key], f"{where}: zone {name!r}: {key}") for key in _PAGES if key in data}
    managed = numbers.get("managed", numbers.get("present"))
    if managed is None:
        raise ConfigError(f"{where}: zone {name!r} has no managed pages")
    boost = numbers.get("boost") or 0
    marks = [numbers[mark] for mark in MARKS if mark in numbers]
    protection = data.get("protection")
    return Zone(
        name,
        numbers.get("node") or 0,
        managed,
        (marks[0] - boost, marks[1] - boost, marks[2] - boost) if None not in marks and len(marks) == len(MARKS) else None,  # type: ignore[operator]  # None was looked for
        None if protection is None else _numbers(protection, f"{where}: zone {name!r}: protection"),
    )


def _one(value: Any, what: str) -> int | None:
    """Return a number, also out of a list of one."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise ConfigError(f"{what} is no whole number from 0 to {MAX_NUMBER}")
    return int(value)


def _numbers(value: Any, what: str) -> list[int]:
    if not isinstance(value, list) or len(value) > _MAX_ZONES:
        raise ConfigError(f"{what} is no list of numbers")
    return [0 if each is None else _one(each, what) or 0 for each in value]


def compare_marks(table: MarksTable) -> list[MarkDifference]:
    """Return every zone whose marks or protection the formulas give otherwise."""
    differences: list[MarkDifference] = []
    for point in table.points:
        differences += _compare_marks(table.policy, point)
        differences += _compare_protection(table.policy, point)
    return differences


def _compare_marks(policy: str, point: Point) -> list[MarkDifference]:
    if point.min_free_kbytes is None:
        return []
    formulas = marks_of(policy)
    scale = point.scale if point.scale is not None else formulas.scale_factor or 0
    highmem = _highmem(policy, point.zones)
    lowmem_pages = sum(zone.managed for zone in point.zones if zone.name not in highmem)
    differences = []
    for zone in point.zones:
        if zone.marks is None:
            continue
        marks = formulas.zone_marks(zone.managed, lowmem_pages, point.min_free_kbytes, scale, zone.name in highmem)
        if marks != zone.marks and zone.name != "Device":
            differences.append(MarkDifference(point.label, _label(zone), "min low high", list(marks), list(zone.marks)))
    return differences


def _compare_protection(policy: str, point: Point) -> list[MarkDifference]:
    if point.ratios is None:
        return []
    differences = []
    nodes: dict[int, list[Zone]] = {}
    for zone in point.zones:
        nodes.setdefault(zone.node, []).append(zone)
    for zones in nodes.values():
        ratios = (point.ratios + [0] * len(zones))[: len(zones)]
        reserve = marks_of(policy).lowmem_reserve_table([zone.managed for zone in zones], ratios)
        for zone, row in zip(zones, reserve, strict=True):
            if zone.protection is not None and row[: len(zone.protection)] != zone.protection[: len(row)]:
                differences.append(MarkDifference(point.label, _label(zone), "protection", row, zone.protection))
    return differences


def _highmem(policy: str, zones: list[Zone]) -> tuple[str, ...]:
    """Return the names of the zones that keep only a little for themselves."""
    has_highmem = any(zone.name.lower() == "highmem" and zone.managed for zone in zones)
    movable = ("Movable",) if has_highmem or policy == "6.18" else ()
    return ("HighMem", "HIGHMEM", *movable)


def _label(zone: Zone) -> str:
    return f"{zone.name} of node {zone.node}" if zone.node else zone.name
