"""How commands print tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH: Final = 1000  # no column is cut, however narrow the terminal
_COLUMNS: Final = 80  # of an ordinary terminal


def print_json(value: object) -> None:
    """Print one JSON object."""
    print(json.dumps(value, indent=1))


def print_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table without colours; a missing value is a dash. A wide table has its columns closer together."""
    lines = _table_lines(columns, rows, left=1)
    if max(map(len, lines)) > _COLUMNS:
        lines = _table_lines(columns, rows, left=0)
    print("\n".join(lines))


def _table_lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], left: int) -> list[str]:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, left))
    for column in columns:
        table.add_column(column, justify="left" if any(isinstance(row[column], str) for row in rows) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*("-" if row[column] is None else _cell(row[column]) for column in columns))
    console = Console(width=_WIDTH, highlight=False, markup=False, no_color=True, soft_wrap=True)
    with console.capture() as capture:
        console.print(table, crop=False)
    return [line.rstrip() for line in capture.get().splitlines()]


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
