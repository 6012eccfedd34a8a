"""``kemu geometry``: how large the slabs of a kernel are, and whether a real kernel agrees.

Interface: :func:`geometry_command`, with what was typed.
"""

from __future__ import annotations

from typing import Any

import attrs

from kemu.errors import ConfigError, KernelBug
from kemu.mm.geometry import BootWords, Geometry
from kemu.mm.gfp import get_order
from kemu.mm.policies import make_geometry
from kemu.mm.slub_geometry import (
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from kemu_lab.boot_args import parse_debug_letters
from kemu_lab.contents import read_input
from kemu_lab.numbers import whole_number
from kemu_lab.show import print_json, print_table
from kemu_lab.slab_table import MAX_CPUS, Difference, SlabTable, compare, read_slab_table
from kemu_lab.this_machine import slab_table_text

MAX_SIZE = 4 << 20  # the largest block of pages
MAX_ALIGN = 1 << 16
MAX_WORD = 1000


@attrs.frozen
class GeometryOptions:
    """What was typed."""

    policy: str | None
    cpus: str | None
    word: str | None
    size: tuple[str, ...]
    object_size: tuple[str, ...]
    align: str | None
    rcu: bool
    ctor: bool
    hwcache_align: bool
    kmalloc: bool
    slub_min_order: str | None
    slub_max_order: str | None
    slub_min_objects: str | None
    slub_debug: str | None
    against: str | None
    this_machine: bool

    @property
    def boot(self) -> BootWords:
        """The boot words."""
        orders = (self.slub_min_order, self.slub_max_order, self.slub_min_objects)
        names = ("--slub-min-order", "--slub-max-order", "--slub-min-objects")
        return BootWords(
            *(None if text is None else whole_number(text, name, 0, MAX_WORD) for text, name in zip(orders, names, strict=True))
        )

    @property
    def ncpus(self) -> int | None:
        """Present CPUs, if given."""
        return None if self.cpus is None else whole_number(self.cpus, "--cpus", 1, MAX_CPUS)

    @property
    def word_size(self) -> int | None:
        """Bytes of a pointer, if given."""
        if self.word not in (None, "4", "8"):
            raise ConfigError(f"--word {self.word!r} cannot be used; a word has 4 or 8 bytes")
        return None if self.word is None else int(self.word)


def geometry_command(options: GeometryOptions, *, as_json: bool) -> int:
    """Print the geometry of sizes, or compare with a kernel; 1 if that differs."""
    if options.against is not None or options.this_machine:
        if options.size or options.object_size or (options.against is not None and options.this_machine):
            raise ConfigError("--size, --object-size, --against and --this-machine cannot be mixed; choose one kind")
        return _compare(options, as_json=as_json)
    if not options.size and not options.object_size:
        raise ConfigError("nothing to compute; give --size or --object-size, or a table with --against or --this-machine")
    geometry = make_geometry(options.policy or "2.6.23", options.ncpus or 1, options.word_size or 8, options.boot)
    rows = [_row(geometry, options, None, size) for size in _sizes(options.size, "--size")]
    rows += [_row(geometry, options, size, 0) for size in _sizes(options.object_size, "--object-size")]
    if as_json:
        print_json(
            {"policy": geometry.name, "cpus": geometry.ncpus, "word": geometry.word, **attrs.asdict(geometry.boot), "rows": rows}
        )
        return 0
    print(f"policy {geometry.name}, {geometry.ncpus} CPUs, words of {geometry.word} bytes")
    print_table([key for key in rows[0] if any(row[key] is not None for row in rows)], rows)
    return 0


def _sizes(texts: tuple[str, ...], what: str) -> list[int]:
    return [whole_number(text, what, 1, MAX_SIZE) for text in texts]


def _row(geometry: Geometry, options: GeometryOptions, objsize: int | None, size: int) -> dict[str, Any]:
    """Compute one line; the size is derived if the object's is given."""
    flags = parse_debug_letters(options.slub_debug or "-", "--slub-debug")
    for wanted, flag in (
        (options.rcu, SLAB_DESTROY_BY_RCU),
        (options.hwcache_align, SLAB_HWCACHE_ALIGN),
        (options.kmalloc, SLAB_KMALLOC),
    ):
        flags |= flag if wanted else 0
    align = None
    if objsize is not None:
        align = geometry.alignment(flags, whole_number(options.align or "0", "--align", 0, MAX_ALIGN), objsize)
        size = geometry.slab_size(objsize, align, flags, has_ctor=options.ctor)
        if "o" in (options.slub_debug or "").lower() and geometry.name != "2.6.23" and get_order(size) > get_order(objsize):
            flags &= ~(SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER)  # kmem_cache_open(): not where it makes slabs larger
            size = geometry.slab_size(objsize, align, flags, has_ctor=options.ctor)
    try:
        order = geometry.order(size)
    except KernelBug:
        raise ConfigError(f"an object of {size} bytes fits no slab of {geometry.name}") from None
    return {
        "object_size": objsize,
        "align": align,
        "slab_size": size,
        "order": order,
        "objs_per_slab": geometry.objects(size, order),
        "min_partial": geometry.min_partial(size),
        "cpu_partial": geometry.cpu_partial(size, flags),
    }


def _compare(options: GeometryOptions, *, as_json: bool) -> int:
    """Compare with a file or with the running kernel."""
    if options.against is not None:
        where, text = options.against, read_input(options.against, "--against")
    else:
        where, text = "this machine", slab_table_text().encode()
    given: dict[str, Any] = {"policy": options.policy, "cpus": options.ncpus, "word": options.word_size, "boot": options.boot}
    if options.slub_debug is not None:
        parse_debug_letters(options.slub_debug, "--slub-debug")
        given["slub_debug"] = options.slub_debug
    table = read_slab_table(text, where, **given)
    differences = compare(table)
    if as_json:
        print_json(_report(table, differences))
    else:
        for difference in differences:
            print(difference)
        different = len({difference.cache for difference in differences})
        verdict = f"{different} differ" if different else "all are equal"
        print(
            f"{where}: policy {table.policy}, {table.cpus} CPUs, words of {table.word} bytes: {len(table.caches)} caches, {verdict}"
        )
    return 1 if differences else 0


def _report(table: SlabTable, differences: list[Difference]) -> dict[str, Any]:
    return {
        "policy": table.policy,
        "cpus": table.cpus,
        "word": table.word,
        **attrs.asdict(table.boot),
        "caches": len(table.caches),
        "differences": [attrs.asdict(difference) for difference in differences],
    }
