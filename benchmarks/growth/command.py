"""`python -m benchmarks growth`: run a suite's missing rows, and render the page of them."""

from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.growth.rows import Ledger, Row
from benchmarks.growth.runner import Wanted, carry_out, pending
from benchmarks.growth.suites import suite_named
from esper.workers.cli import console

SuiteName = Annotated[str, typer.Option("--suite", help="Which experiments.")]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds of each control, from 0.")]
Only = Annotated[list[str] | None, typer.Option(help="A task; may be given again. Default: all.")]
Controls = Annotated[
    list[str] | None, typer.Option("--control", help="A control; may be given again. Default: all.")
]
Again = Annotated[bool, typer.Option(help="Also run what other code ran, or what failed.")]
Render = Annotated[bool, typer.Option("--page", help="Run nothing: render docs/evidence.md.")]


def growth(
    suite: SuiteName = "known-answer",
    seeds: Seeds = 20,
    only: Only = None,
    control: Controls = None,
    again: Again = False,
    page: Render = False,
) -> None:
    """Run what has no row in benchmarks/results/growth/ yet; each run leaves one as it ends."""
    if page:
        from benchmarks.growth.page import write

        write()
        return
    chosen, ledger = suite_named(suite), Ledger.of(suite)
    wanted = Wanted(seeds, tuple(only or ()), tuple(control or ()), again)
    cases = pending(chosen, wanted, ledger)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(suite, total=len(cases))

        def tell(row: Row) -> None:
            progress.update(bar, advance=1, description=f"{row.task} {row.control}")
            if row.error:
                progress.console.print(f"{row.task} {row.control} {row.seed}: {row.error}")

        carry_out(chosen, cases, ledger, tell)
    failed = sum(bool(row.error) for row in ledger.rows)
    console.print(f"{len(ledger.rows)} rows in {ledger.path.name}, {failed} of them failures")
