"""``kemu list``: the switches and the scenarios, as a table or as JSON."""

from __future__ import annotations

import json

import attrs

from kemu.errors import ConfigError
from kemu.fixes import FIXES
from kemu.patches import PATCHES
from kemu_lab.scenarios import SCENARIOS


def list_command(what: str, *, as_json: bool) -> int:
    """Print one of the lists."""
    makers = {"patches": _patches, "fixes": _fixes, "scenarios": _scenarios}
    if what not in makers:
        raise ConfigError(f"there is no list of {what!r}; there are patches, fixes and scenarios")
    rows, lines = makers[what]()
    print(json.dumps(rows, indent=1) if as_json else "\n".join(lines))
    return 0


def _patches() -> tuple[list[dict[str, object]], list[str]]:
    rows = [attrs.asdict(patch) for patch in PATCHES]
    lines = [f"{p.number:>2}  {p.name:<24} {p.subject[:44]:<44}{'' if p.built else ' (-)'}".rstrip() for p in PATCHES]
    if not all(patch.built for patch in PATCHES):
        lines.append("(-) not built yet: it cannot be switched")
    return rows, lines


def _fixes() -> tuple[list[dict[str, object]], list[str]]:
    rows = [attrs.asdict(fix) for fix in FIXES]
    lines = [f"{f.id:<5} {f.title[:69]}{'' if f.built else ' (-)'}" for f in FIXES]
    if not all(fix.built for fix in FIXES):
        lines.append("(-) not built yet: it cannot be switched")
    return rows, lines


def _scenarios() -> tuple[list[dict[str, object]], list[str]]:
    rows: list[dict[str, object]] = [{"name": name, "summary": summary} for name, (_, summary) in SCENARIOS.items()]
    return rows, [f"{name:<12} {summary}" for name, (_, summary) in SCENARIOS.items()]
