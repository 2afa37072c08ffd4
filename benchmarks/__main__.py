"""`python -m benchmarks COMMAND`: measure, list, compare two checkouts, render the pages."""

import faulthandler
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from benchmarks import catalog_page, figures
from benchmarks.chaos import page as chaos_page
from benchmarks.compare import compare
from benchmarks.kept import BENCHMARKS as PACKAGE
from benchmarks.kept import result_file
from benchmarks.output import Json, Quick, Save, check_flags, show
from benchmarks.registry import BENCHMARKS, measure
from benchmarks.result import BenchmarkError
from esper.workers.cli import print_table

Name = Annotated[str, typer.Argument(help="A benchmark; see `list`.")]
Before = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The other checkout.")]
Trainers = Annotated[
    int | None, typer.Option(min=1, help="Simulated trainers; of the benchmark `trainers` only.")
]
Pairs = Annotated[int, typer.Option(min=1, help="Runs in each checkout.")]


def main(
    name: Name,
    json: Json = False,
    quick: Quick = False,
    save: Save = False,
    trainers: Trainers = None,
) -> None:
    """Measure one benchmark and print it, as a table or as JSON.

    Other commands: `list` names the benchmarks; `figures` renders docs/figures.md, docs/figures/,
    docs/catalog.md and docs/chaos.md from saved results; `compare BEFORE_DIR NAME` measures two
    checkouts.
    """
    check_flags(quick=quick, save=save)
    if trainers is not None and name != "trainers":
        raise typer.BadParameter("--trainers is an option of the benchmark `trainers`")
    if name == "list":
        print_table(("name", "summary"), [(entry.name, entry.summary) for entry in BENCHMARKS])
    elif name == "figures":
        figures.write()
        catalog_page.DOCUMENT.write_text(catalog_page.render())
        if result_file(chaos_page.NAME).exists():
            chaos_page.write()
    else:
        options = {} if trainers is None else {"trainers": trainers}
        show(measure(name, quick=quick, **options), PACKAGE, json=json, save=save)


def compare_command(
    before: Before, name: Name, pairs: Pairs = 3, quick: Quick = False, json: Json = False
) -> None:
    """Measure a benchmark alternately in another checkout and in this one; print the ratios."""
    result = compare(before, name, pairs, quick=quick)
    show(result, PACKAGE, json=json, save=False)


def _end_on_sigterm(number: int, frame: FrameType | None) -> None:
    """End like Ctrl-C: services that a benchmark has started are stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    # A benchmark that something else ends has probably hung; this shows where.
    faulthandler.register(signal.SIGTERM, chain=True)
    try:
        if sys.argv[1:2] == ["compare"]:
            sys.argv[:2] = [f"{sys.argv[0]} compare"]
            typer.run(compare_command)
        else:
            typer.run(main)
    except BenchmarkError as error:
        sys.exit(f"benchmarks: {error}")
