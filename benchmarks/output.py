"""Command-line output that benchmarks and experiments share."""

import sys
from typing import Annotated

import typer

from benchmarks.kept import save as save_result
from benchmarks.page import middle_half, number, yes_or_no
from benchmarks.result import Result
from esper.workers.cli import Json, console, print_table

__all__ = ["Json", "Quick", "Save", "check_flags", "show"]

Quick = Annotated[bool, typer.Option(help="Only check that it runs: the figures mean nothing.")]
Save = Annotated[bool, typer.Option(help="Save the result, from which the pages are rendered.")]


def check_flags(*, quick: bool, save: bool) -> None:
    """Raise `typer.BadParameter` for flags that exclude each other."""
    if quick and save:
        raise typer.BadParameter("a quick result cannot be saved; leave out --quick or --save")


def show(result: Result, package: str, *, json: bool, save: bool) -> None:
    """Print a result as a table or as JSON, and save it if asked."""
    if save:
        save_result(result, package)
    if json:
        sys.stdout.write(result.to_json())
        return
    console.print(f"{result.name} at {result.commit}{' (modified)' if result.modified else ''}")
    print_table(
        ("figure", "unit", "median", "middle half", "worst", "n", "reached"),
        [
            (
                figure.key,
                figure.unit,
                number(figure.median),
                middle_half(figure),
                number(figure.worst),
                figure.n,
                yes_or_no(figure.reached),
            )
            for figure in result.figures
        ],
    )
