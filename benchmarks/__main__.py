"""`python -m benchmarks NAME`: run a benchmark, list them, or render what they say."""

import sys
from importlib import import_module
from typing import Annotated

import typer

from benchmarks import figures
from benchmarks.catalog import BENCHMARKS, measure
from benchmarks.figures import result_file
from benchmarks.result import BenchmarkError, Result
from esper.workers.cli import Json, console, print_table

Name = Annotated[str, typer.Argument(help="A benchmark, or `list`, or `figures`.")]
Quick = Annotated[bool, typer.Option(help="Only show that it works: the figures mean nothing.")]
Save = Annotated[bool, typer.Option(help="Keep the result, for `figures` to render.")]


def main(name: Name, json: Json = False, quick: Quick = False, save: Save = False) -> None:
    """Measure one thing and print it, as a table or as JSON.

    `list` names the benchmarks; `figures` renders docs/figures.md, docs/catalog.md, docs/regret.md
    and its pictures from the results that were kept.
    """
    if quick and save:
        raise typer.BadParameter("a quick result must not be kept; leave out --quick or --save")
    if name == "list":
        print_table(("name", "what"), [(each.name, each.what) for each in BENCHMARKS])
    elif name == "figures":
        _render()
    else:
        _show(measure(name, quick=quick), json=json, save=save)


def _render() -> None:
    pages = [import_module(f"benchmarks.{each.page}") for each in BENCHMARKS if each.page]
    for page in (figures, *pages):
        page.DOCUMENT.write_text(page.render())
    for each in BENCHMARKS:
        if each.plots:
            for file, picture in import_module(f"benchmarks.{each.plots}").draw().items():
                file.write_text(picture)


def _show(result: Result, *, json: bool, save: bool) -> None:
    if save:
        result_file(result.name).write_text(result.to_json())
    if json:
        sys.stdout.write(result.to_json())
        return
    console.print(f"{result.name} at {result.commit}{' (modified)' if result.modified else ''}")
    print_table(
        ("figure", "unit", "median", "middle half", "worst", "n", "reached"),
        [
            (
                each.key,
                each.unit,
                f"{each.median:.4g}",
                "{:.4g} to {:.4g}".format(*each.spread),
                f"{each.worst:.4g}",
                each.n,
                {True: "yes", False: "no", None: ""}[each.reached],
            )
            for each in result.figures
        ],
    )


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["growth"]:
            from benchmarks.growth.command import growth

            sys.argv[:2] = [f"{sys.argv[0]} growth"]
            typer.run(growth)
        else:
            typer.run(main)
    except BenchmarkError as error:
        sys.exit(f"benchmarks: {error}")
