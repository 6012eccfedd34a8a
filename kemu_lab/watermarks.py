"""``kemu watermarks``: the marks of a machine, and whether a real kernel agrees.

Interface: :func:`watermarks_command`, with what was typed.

Rules of this file
    * Marks are those of a machine that is booted here; sysctls are written to it as a person would.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from kemu.errors import ConfigError
from kemu.machine import MAX_MEM, MIN_MEM, Machine, MachineConfig
from kemu.mm.nodes import MAX_NUMNODES
from kemu_lab.contents import read_input
from kemu_lab.marks_table import MarksTable, compare_marks, read_marks
from kemu_lab.numbers import whole_number
from kemu_lab.quantities import parse_size
from kemu_lab.show import print_json, print_table
from kemu_lab.this_machine import marks_text

MAX_KBYTES: Final = 1 << 30
_NAMES: Final = {"NORMAL": "Normal", "HIGHMEM": "HighMem"}  # as the kernel prints them


@attrs.frozen
class WatermarksOptions:
    """What was typed."""

    policy: str | None
    mem: str | None
    arch: str
    nodes: str
    min_free_kbytes: str | None
    scale: str | None
    lowmem_reserve_ratio: str | None
    against: str | None
    this_machine: bool


def watermarks_command(options: WatermarksOptions, *, as_json: bool) -> int:
    """Print the marks of a machine, or compare with a kernel; 1 if that differs."""
    if options.against is None and not options.this_machine:
        return _show(options, as_json=as_json)
    if options.mem is not None or (options.against is not None and options.this_machine):
        raise ConfigError("--mem, --against and --this-machine cannot be mixed; choose one")
    if options.against is not None:
        table = read_marks(read_input(options.against, "--against"), options.against, policy=options.policy)
        return _compare(options.against, table, as_json=as_json)
    return _compare("this machine", read_marks(marks_text(), "this machine", policy=options.policy), as_json=as_json)


def _show(options: WatermarksOptions, *, as_json: bool) -> int:
    """Boot a machine and read its zones."""
    config = MachineConfig(
        mem=parse_size(options.mem or "128M", "--mem", MIN_MEM, MAX_MEM) & -4096,
        arch=options.arch,
        nodes=whole_number(options.nodes, "--nodes", 1, MAX_NUMNODES),
        geometry=options.policy or "2.6.23",
    )
    with Machine(config) as machine:
        _write(machine, "vm.min_free_kbytes", options.min_free_kbytes, "--min-free-kbytes", MAX_KBYTES)
        _write(machine, "vm.watermark_scale_factor", options.scale, "--scale", 1000)
        if options.lowmem_reserve_ratio is not None:
            ratios = [
                whole_number(text, "--lowmem-reserve-ratio", 0, MAX_KBYTES) for text in options.lowmem_reserve_ratio.split(",")
            ]
            machine.kernel.sysctl.write("vm.lowmem_reserve_ratio", " ".join(map(str, ratios)))
        report = _report(machine)
    if as_json:
        print_json(report)
        return 0
    print(f"policy {report['policy']}, min_free_kbytes {report['min_free_kbytes']}")
    print_table(("node", "zone", "managed", "min", "low", "high", "protection"), report["zones"])
    return 0


def _write(machine: Machine, name: str, text: str | None, option: str, high: int) -> None:
    """Write a sysctl that was given."""
    if text is None:
        return
    value = whole_number(text, option, 0, high)
    if machine.kernel.sysctl.write(name, str(value)):
        raise ConfigError(f"{option} {text!r} cannot be used; {machine.config.geometry} has no {name} or refuses this value")


def _report(machine: Machine) -> dict[str, Any]:
    min_free = machine.page_alloc.min_free
    rows = [
        {
            "node": node.node_id,
            "zone": _NAMES.get(zone.name, zone.name),
            "managed": zone.present_pages,
            "min": zone.pages_min,
            "low": zone.pages_low,
            "high": zone.pages_high,
            "protection": list(zone.lowmem_reserve),
        }
        for node in machine.page_alloc.nodes
        for zone in node.zones
    ]
    report: dict[str, Any] = {"policy": machine.config.geometry, "min_free_kbytes": min_free.min_free_kbytes}
    if min_free.marks.scale_factor is not None:
        report["scale"] = min_free.watermark_scale_factor
    return {**report, "lowmem_reserve_ratio": list(min_free.lowmem_reserve_ratio), "zones": rows}


def _compare(where: str, table: MarksTable, *, as_json: bool) -> int:
    """Hold a table against the formulas."""
    differences = compare_marks(table)
    if as_json:
        rows = [attrs.asdict(difference) for difference in differences]
        print_json({"policy": table.policy, "points": len(table.points), "differences": rows})
    else:
        for difference in differences:
            print(difference)
        if differences and table.of_slabs:
            print("a kernel may have computed these at boot, with fewer managed pages than it shows later; judge marks by a sweep")
        verdict = f"{len(differences)} differences" if differences else "all are equal"
        print(f"{where}: policy {table.policy}: {len(table.points)} points, {verdict}")
    return 1 if differences else 0
