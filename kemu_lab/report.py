"""A run's result as text for people: 80 columns, no meaning by colour alone."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from kemu_lab.phase_report import acceptance_rows, folded, phase_table
from kemu_lab.quantities import format_size
from kemu_lab.result import Net, Reclaim, Reserve, RunResult

PAGE_SIZE = 4096


def print_report(result: RunResult, *, quiet: bool) -> None:
    """Print the table and the verdict; only the verdict if ``quiet``."""
    console = Console(highlight=False, soft_wrap=False)
    if not quiet:
        console.print(_table(result))
        if result.acceptance is not None:
            console.print(phase_table(result.phases))
            for line in folded(result.acceptance.messages):
                console.print(line, markup=False)
    style = "green" if result.lived else "bold red"
    also = f" (also: {', '.join(result.also)})" if result.also else ""
    console.print(f"[{style}]{result.outcome}[/]{also}: ", end="")
    console.print(result.reason, markup=False)
    if not quiet:
        for line in result.chain:
            console.print(f"  {line}", markup=False)
    console.print(f"history {result.history}", markup=False)
    if result.dropped:
        console.print(f"left out with them: patches {', '.join(map(str, result.dropped))}", markup=False)
    console.print(f"repeat: {result.command}", markup=False)


def _table(result: RunResult) -> Table:
    """Lay out the counters, a subject a row."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for name, text in _rows(result):
        table.add_row(name, text)
    return table


def _rows(result: RunResult) -> list[tuple[str, str]]:
    """Put every counter into words."""
    pages, net, reserve, reclaim = result.pages, result.net, result.reserve, result.reclaim
    drops = ", ".join(f"{gate} {count}" for gate, count in net.drops.items() if count) or "none"
    share = 100 * reserve.pages_emerg / result.mem_pages if result.mem_pages else 0
    return [
        ("kernel", f"{_named(result.patches)}; fixes {_fixes(result.fixes)}"),
        ("memory", f"{format_size(result.mem_pages * PAGE_SIZE)}, {result.mem_pages} pages; {pages.touched} pages touched"),
        ("reserve", f"{reserve.pages_emerg} pages, {share:.0f} % of memory"),
        ("SKB data", _reserve(reserve)),
        ("swap", f"{pages.swapped_out} pages out, {pages.swapped_in} in; {pages.verified} compared, {pages.lost} lost"),
        (
            "reclaim",
            _reclaim(reclaim),
        ),
        (
            "network",
            _net(net),
        ),
        ("drops", drops),
        *_stores(result),
        *(acceptance_rows(result.acceptance) if result.acceptance is not None else []),
        ("time", f"{result.virtual_ns / 1e9:.3f} s in the machine, {result.wall_seconds:.1f} s outside"),
    ]


def _reserve(reserve: Reserve) -> str:
    """Put the use of the SKB data reserve into words."""
    use = f"peak {reserve.peak_bytes} of {reserve.limit_bytes} bytes, {reserve.end_of_load_bytes} at the load's end"
    return f"{use}, {reserve.left_bytes} left; {reserve.leaked_pages} pages leaked"


def _stores(result: RunResult) -> list[tuple[str, str]]:
    """Put the traffic with the swap area into words, and the memory pools that serve it."""
    nfs, disk = result.nfs, result.disk
    if result.swap != "disk":
        return [("nfs", f"{nfs.writes} WRITE, {nfs.reads} READ, {nfs.retransmissions} sent again, {nfs.reconnects} reconnects")]
    return [
        ("disk", f"{disk.writes} writes, {disk.reads} reads, {disk.merged} bios joined one of them"),
        ("mempools", f"{result.reclaim.mempool_sleeps} sleeps for an element, of 5 s at most"),
    ]


def _reclaim(reclaim: Reclaim) -> str:
    """Put reclaim's counters into words."""
    woken = f"kswapd woken {reclaim.kswapd_wakes}, direct {reclaim.direct_reclaims}, throttled {reclaim.throttled}"
    return f"{woken}, OOM kills {reclaim.oom_kills}"


def _net(net: Net) -> str:
    """Put the network's counters into words."""
    frames = f"{net.rx_frames} frames in, {net.tx_frames} out"
    return f"{frames}, {net.retransmits} retransmits, {net.emergency_skbs} emergency skbs"


def _named(patches: list[int]) -> str:
    """Name a set of patches as a person would."""
    if not patches:
        return "2.6.23-mm1 as it was"
    return f"{len(patches)} patches ({_ranges(patches)})"


def _ranges(numbers: list[int]) -> str:
    """Write 1-3,5 for [1, 2, 3, 5]."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _fixes(fixes: list[str]) -> str:
    """Name a set of fixes."""
    return f"{len(fixes)} on" if fixes else "none (v14 as posted)"
