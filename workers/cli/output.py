"""Output of the commands: tables on the console, or one JSON document with --json."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

console = Console(highlight=False)


def print_json(value: Any) -> None:
    """Print a value as indented JSON with sorted keys."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS, default=str)
    sys.stdout.write(text.decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table; the caller formats numbers."""
    table = Table(*columns, title=title or None, title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def age(seconds: float) -> str:
    """Return a time in its largest whole unit, as `3 min`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
