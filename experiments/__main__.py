"""`python -m experiments COMMAND`: measure, run the missing rows of a suite, render the pages."""

import sys
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.kept import EXPERIMENTS as PACKAGE
from benchmarks.output import Json, Quick, Save, check_flags, show
from benchmarks.registry import measure_module
from benchmarks.result import BenchmarkError
from esper.workers.cli import console, print_table
from experiments.growth.rows import Ledger, RunRow
from experiments.growth.runner import CaseFilter, pending_cases, run_cases
from experiments.registry import MEASUREMENTS, SUITES, Experiment, suite_named

Seeds = Annotated[int, typer.Option(min=1, help="Seeds of each control, from 0.")]
Only = Annotated[list[str] | None, typer.Option(help="A task; repeatable. Default: all.")]
Controls = Annotated[
    list[str] | None, typer.Option("--control", help="A control; repeatable. Default: all.")
]
Again = Annotated[bool, typer.Option(help="Repeat runs of other code, and failed runs.")]

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command("list")
def list_experiments() -> None:
    """Print the experiments."""
    print_table(("name", "summary"), [(entry.name, entry.summary) for entry in MEASUREMENTS])
    print_table(("suite", "summary"), [(entry.name, entry.summary) for entry in SUITES])


@app.command()
def pages() -> None:
    """Render docs/regret.md, docs/evidence.md and their plots from the saved results."""
    from experiments.evidence import page as evidence
    from experiments.regret import page as regret

    regret.write()
    evidence.write()


def _add_measurement(entry: Experiment) -> None:
    @app.command(entry.name, help=f"Measure {entry.summary}; print a table or JSON.")
    def measurement(json: Json = False, quick: Quick = False, save: Save = False) -> None:
        check_flags(quick=quick, save=save)
        result = measure_module(f"experiments.{entry.module}", entry.name, quick=quick)
        show(result, PACKAGE, json=json, save=save)


def _add_suite(entry: Experiment) -> None:
    @app.command(entry.name, help=f"Run the missing rows of this suite: {entry.summary}.")
    def suite(
        seeds: Seeds = 20, only: Only = None, control: Controls = None, again: Again = False
    ) -> None:
        run_suite(entry.name, CaseFilter(seeds, tuple(only or ()), tuple(control or ()), again))


for _entry in MEASUREMENTS:
    _add_measurement(_entry)
for _entry in SUITES:
    _add_suite(_entry)


def run_suite(name: str, case_filter: CaseFilter) -> None:
    """Run the cases that have no row yet; save each row when its run ends."""
    suite, ledger = suite_named(name), Ledger.of(name)
    cases = pending_cases(suite, case_filter, ledger)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(name, total=len(cases))

        def show_row(row: RunRow) -> None:
            progress.update(bar, advance=1, description=f"{row.task} {row.control}")
            if row.error:
                progress.console.print(f"{row.task} {row.control} {row.seed}: {row.error}")

        run_cases(suite, cases, ledger, show_row)
    failed = sum(bool(row.error) for row in ledger.rows)
    console.print(f"{len(ledger.rows)} rows in {ledger.path.name}, {failed} of them failures")


if __name__ == "__main__":
    try:
        app()
    except BenchmarkError as error:
        sys.exit(f"experiments: {error}")
