"""The phases of a run side by side, and what else only the acceptance test tells, as text of 80 columns."""

from __future__ import annotations

from rich.table import Table

from kemu_lab.phases import Phase
from kemu_lab.quantities import format_time
from kemu_lab.result import Acceptance


def phase_table(phases: list[Phase]) -> Table:
    """Lay the phases out, one a column."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("phase", style="bold")
    for phase in phases:
        table.add_column(phase.name, justify="right")
    for name, *cells in zip(*[_cells(phase) for phase in phases], strict=True) if phases else []:
        table.add_row(name[0], *[cell for _, cell in [name, *cells]])
    return table


def _cells(phase: Phase) -> list[tuple[str, str]]:
    """Put one phase into words, a row each."""
    drops = ", ".join(f"{gate} {count}" for gate, count in phase.drops.items() if count) or "none"
    return [
        ("time", _seconds(phase.virtual_ns)),
        ("pages touched", str(phase.touches)),
        ("swapped out, in", f"{phase.pages_out}, {phase.pages_in}"),
        ("WRITE, READ", f"{phase.writes}, {phase.reads}"),
        ("sent again", str(phase.retransmissions)),
        ("reconnects", str(phase.reconnects)),
        ("frames in", str(phase.rx_frames)),
        ("emergency skbs", str(phase.emergency_skbs)),
        ("free pages", f"{phase.free_low} to {phase.free_high}"),
        ("SKB data peak", str(phase.reserve_peak_bytes)),
        ("dropped", drops),
        ("direct reclaims", str(phase.direct_reclaims)),
        ("longest stall", _seconds(phase.longest_stall_ns)),
    ]


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.3f} s"


def folded(messages: list[str]) -> list[str]:
    """Say what is said several times in a row once: the time of the first, and how often."""
    lines: list[tuple[str, int]] = []
    for message in messages:
        if lines and lines[-1][0].partition("] ")[2] == message.partition("] ")[2]:
            lines[-1] = (lines[-1][0], lines[-1][1] + 1)
        else:
            lines.append((message, 1))
    return [text if count == 1 else f"{text} ({count} times)" for text, count in lines]


def acceptance_rows(told: Acceptance) -> list[tuple[str, str]]:
    """Put the arrangement and the outage into words, a row each."""
    whose = f"{told.process_pages} pages each, of uid {told.uid}; swap and files over {told.proto}"
    rows = [
        ("scale", f"{told.scale}; four processes of {whose}"),
        ("traffic", f"{told.traffic}, {told.foreign_frames} frames of other hosts"),
        ("outage", _outage(told)),
    ]
    if told.connects_ns and told.away_ns is not None:
        tries = ", ".join(f"{(at - told.away_ns) / 1e9:.0f}" for at in told.connects_ns)
        rows.append(("connects", f"{tries} s after the server went"))
    if told.file_pages_compared:
        rows.append(("files", f"{told.file_pages_compared} pages compared with the server"))
    return rows


def _outage(told: Acceptance) -> str:
    """Tell when the server went and came, and when a page moved again."""
    if told.away_ns is None:
        return "none"
    if told.back_ns is None:
        return f"the server went at {_seconds(told.away_ns)} ({told.outage_how}), and did not come back"
    went = f"the server was away for {format_time(told.back_ns - told.away_ns)} ({told.outage_how})"
    if told.first_page_ns is None:
        return f"{went}; no page moved after it"
    return f"{went}; the first page moved {_seconds(told.first_page_ns - told.back_ns)} after its return"
