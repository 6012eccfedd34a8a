"""Tables of slab caches as kernels show them, and where kemu's formulas differ from one.

Interface
    * :func:`read_slab_table`: JSON text in the format of tests/truth -> :class:`SlabTable`; :exc:`ConfigError` for anything else.
    * :func:`compare`: a :class:`Difference` for every number that comes out otherwise.

Rules of this file
    * A row's ``slab_size`` is an input for order, objects and partial slabs, as it is in the kernel. It is derived too, from
      ``object_size``, ``align`` and flags. A table does not say which caches have a constructor, so both ways are right; and from
      6.18 on a cache with RCU may have its free pointer inside.
    * Rows show Z, P and U. F and T, which only cost the CPUs their partial slabs, come from the boot words.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from kemu.errors import ConfigError, KernelBug
from kemu.mm.geometry import BootWords, Geometry
from kemu.mm.gfp import get_order
from kemu.mm.policies import check_policy, make_geometry, policy_of_release
from kemu.mm.slub_geometry import SLAB_DESTROY_BY_RCU, SLAB_KMALLOC, SLAB_POISON, SLAB_RED_ZONE, SLAB_STORE_USER
from kemu_lab.boot_args import BootArgs, parse_boot_args

MAX_CPUS: Final = 8192
MAX_NUMBER: Final = 1 << 40
NUMBERS: Final = ("order", "objs_per_slab", "min_partial", "cpu_partial")
_ROW_FLAGS: Final = {
    "red_zone": SLAB_RED_ZONE,
    "poison": SLAB_POISON,
    "store_user": SLAB_STORE_USER,
    "destroy_by_rcu": SLAB_DESTROY_BY_RCU,
}
_NARROW: Final = ("i386", "i486", "i586", "i686", "x86", "arm", "armv7l", "mips", "ppc", "riscv32")


@attrs.frozen
class SlabTable:
    """The caches of one kernel, and what it knew when it made them."""

    policy: str
    cpus: int
    word: int
    boot: BootWords
    args: BootArgs
    caches: dict[str, dict[str, int]]

    @property
    def geometry(self) -> Geometry:
        """The formulas that should explain it."""
        return make_geometry(self.policy, self.cpus, self.word, self.boot)


@attrs.frozen
class Difference:
    """One number of one cache."""

    cache: str
    field: str
    computed: str
    table: int

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.cache}: {self.field} is {self.table} in the table, and {self.computed} by the formula"


def read_slab_table(
    text: str | bytes,
    where: str,
    *,
    policy: str | None = None,
    cpus: int | None = None,
    word: int | None = None,
    boot: BootWords | None = None,
    slub_debug: str | None = None,
) -> SlabTable:
    """Read a table; what is given goes before what the table says."""
    data = read_json(text, where)
    if not isinstance(data, dict) or not isinstance(data.get("slab"), dict):
        raise ConfigError(f"{where}: this is no table of slab caches; it has no object 'slab'")
    args = parse_boot_args(_text(data, "boot_args", "", where))
    if slub_debug is not None:
        args = attrs.evolve(args, debug=parse_boot_args(f"slub_debug={slub_debug}").debug)
    given = boot or BootWords()
    words = {name: value if (value := getattr(given, name)) is not None else getattr(args.words, name) for name in _WORDS}
    caches: dict[str, dict[str, int]] = {}
    for name, row in data["slab"].items():
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: cache {name[:60]!r} is no object with numbers")
        caches[name] = {
            key: _number(value, f"{where}: cache {name[:60]!r}: {key[:40]}") for key, value in row.items() if key != "flags"
        }
        if not caches[name].get("slab_size"):
            raise ConfigError(f"{where}: cache {name[:60]!r} has no slab_size")
    return SlabTable(
        policy=check_policy(policy) if policy is not None else policy_of_release(_text(data, "release", None, where)),
        cpus=cpus or _cpus(data, where),
        word=word or (4 if _text(data, "arch", "x86_64", where) in _NARROW else 8),
        boot=BootWords(**words),
        args=args,
        caches=caches,
    )


_WORDS: Final = tuple(field.name for field in attrs.fields(BootWords))


def read_json(text: str | bytes, where: str) -> Any:
    """Parse JSON that a person gave."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{where}: this JSON is nested too deeply") from None
    except ValueError as error:  # also what is no UTF-8, and numbers of thousands of digits
        raise ConfigError(f"{where}: this is no JSON: {str(error)[:120]}") from None


def _text(data: dict[str, Any], key: str, default: str | None, where: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key} is missing or no text")
    return value


def _number(value: Any, what: str) -> int:
    """Return a number of the table; true and false are 1 and 0."""
    if not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise ConfigError(f"{what} is no whole number from 0 to {MAX_NUMBER}")
    return int(value)


def _cpus(data: dict[str, Any], where: str) -> int:
    cpus = _number(data.get("present_cpus"), f"{where}: present_cpus")
    if not 1 <= cpus <= MAX_CPUS:
        raise ConfigError(f"{where}: present_cpus {cpus} cannot be; it goes from 1 to {MAX_CPUS}")
    return cpus


def compare(table: SlabTable) -> list[Difference]:
    """Return every number that the formulas give otherwise, cache by cache."""
    geometry = table.geometry
    differences: list[Difference] = []
    for name, row in table.caches.items():
        size = row["slab_size"]
        flags = _row_flags(table, name, row)
        try:
            order = geometry.order(size)
        except KernelBug:
            differences.append(Difference(name, "slab_size", "too large for any slab", size))
            continue
        numbers = (order, geometry.objects(size, order), geometry.min_partial(size), geometry.cpu_partial(size, flags))
        for field, number in zip(NUMBERS, numbers, strict=True):
            if field in row and number is not None and row[field] != number:
                differences.append(Difference(name, field, str(number), row[field]))
        sizes = _derived_sizes(geometry, row, flags)
        if sizes and size not in sizes:
            differences.append(Difference(name, "slab_size", " or ".join(map(str, sizes)), size))
    return differences


def _row_flags(table: SlabTable, name: str, row: dict[str, int]) -> int:
    """Return the flags of a cache: what its row shows, and what the boot words add to a cache that took them."""
    flags = 0
    for field, flag in _ROW_FLAGS.items():
        if row.get(field):
            flags |= flag
    if name.startswith(("kmalloc-", "dma-kmalloc-")):
        flags |= SLAB_KMALLOC
    asked = table.args.debug.flags_of(name)
    shown = SLAB_RED_ZONE | SLAB_POISON
    if "red_zone" not in row or asked & shown == flags & shown:
        flags |= asked if "red_zone" not in row else asked & ~(shown | SLAB_STORE_USER)
    elif not flags & (shown | SLAB_STORE_USER) and _debug_was_dropped(table, row, flags | asked):
        flags |= asked & ~(shown | SLAB_STORE_USER)
    return flags


def _debug_was_dropped(table: SlabTable, row: dict[str, int], flags: int) -> bool:
    """Tell whether the letter O took from a cache what would have made it larger; F and T stay (kmem_cache_open())."""
    objsize, align = row.get("object_size"), row.get("align")
    if not table.args.debug.small_only or not objsize or not align:
        return False
    size = table.geometry.slab_size(objsize, align, flags, has_ctor=False)
    return get_order(size) > get_order(objsize)


def _derived_sizes(geometry: Geometry, row: dict[str, int], flags: int) -> list[int]:
    """Return what slab_size may be, without and with a constructor; nothing where the row says too little."""
    if not row.get("object_size") or not row.get("align"):
        return []
    objsize, align = row["object_size"], row["align"]
    sizes = [geometry.slab_size(objsize, align, flags, has_ctor=has_ctor) for has_ctor in (False, True)]
    if geometry.name == "6.18" and flags & SLAB_DESTROY_BY_RCU:
        sizes.append(geometry.slab_size(objsize, align, flags & ~SLAB_DESTROY_BY_RCU, has_ctor=False))
    return sorted(set(sizes))
