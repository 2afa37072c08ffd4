"""Render `docs/figures.md` and the pages under `docs/figures/` from saved results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.goals import GOALS, GoalRow
from benchmarks.kept import BENCHMARKS as OWN
from benchmarks.kept import EXPERIMENTS, kept_result, result_file
from benchmarks.origin import ROOT
from benchmarks.page import (
    commit_of,
    goal_of,
    machine_of,
    middle_half,
    number,
    pairs,
    table,
    with_unit,
    yes_or_no,
)
from benchmarks.registry import BENCHMARKS
from benchmarks.result import Figure, Result

DOCUMENT: Final = ROOT / "docs" / "figures.md"
FOLDER: Final = ROOT / "docs" / "figures"
PAGES: Final = {
    **{entry.name: OWN for entry in BENCHMARKS if entry.page is None},
    "convergence": EXPERIMENTS,
    "mnist1d": EXPERIMENTS,
}
"""Results with a page under `docs/figures/`, and the package that measures each."""

HEAD: Final = """# Figures

Rendered by `python -m benchmarks figures` from the saved results; do not edit. To measure again, on
a machine without other work: `python -m benchmarks NAME --save`, then render.

Each line is one goal. `measured` gives the medians, or the worst value where the goal is about the
worst; the page behind the link has the spread, the number of measurements, every other figure, and
the reason where a goal is not reached. A ratio is the median over pairs of neighbouring
measurements from one run. Ratios carry over to other machines, times do not.
"""


def write() -> None:
    """Write the document and its pages."""
    DOCUMENT.write_text(render())
    FOLDER.mkdir(exist_ok=True)
    for file, text in render_pages().items():
        file.write_text(text)


def render() -> str:
    """Return `docs/figures.md`.

    Raises:
        BenchmarkError: a result is from a quick run, or lacks a figure that has a goal.
    """
    rows = [_goal_line(row) for row in GOALS]
    return f"{HEAD}\n{table(('figure', 'goal', 'measured', 'reached', 'details'), rows)}"


def render_pages() -> dict[Path, str]:
    """Return the pages under `docs/figures/`, by file.

    Raises:
        BenchmarkError: a result is from a quick run, or lacks a figure that has a goal.
    """
    return {
        FOLDER / f"{name}.md": _page(kept_result(name, package), package)
        for name, package in PAGES.items()
        if result_file(name, package).exists()
    }


def _goal_line(row: GoalRow) -> tuple[str, ...]:
    if not row.figures:
        return (row.title, row.goal, "", "", f"[{row.name}]({row.page})")
    if not result_file(row.name, row.package).exists():
        return (row.title, row.goal, "not measured yet", "", f"`{row.command}`")
    figures = [kept_result(row.name, row.package).figure(key) for key in row.figures]
    return (
        row.title,
        row.goal,
        ", ".join(_value(figure) for figure in figures),
        "**no**" if any(figure.reached is False for figure in figures) else "yes",
        f"[{row.name}]({row.page or f'figures/{row.name}.md'})",
    )


def _value(figure: Figure) -> str:
    """Return the number that the goal is about."""
    worst = figure.goal is not None and figure.goal.of == "worst"
    return with_unit(figure.worst if worst else figure.median, figure.unit)


def _page(result: Result, package: str) -> str:
    command = f"python -m {package} {result.name}"
    rows = [
        (
            figure.title,
            with_unit(figure.median, figure.unit),
            middle_half(figure),
            number(figure.p90),
            number(figure.worst),
            str(figure.n),
            "; ".join(f"{name} {number(side.median)}" for name, side in figure.sides.items()),
        )
        for figure in result.figures
    ]
    columns = ("figure", "median", "middle half", "p90", "worst", "n", "medians of both sides")
    return "\n".join(
        [
            f"# {result.name}\n",
            f"Rendered by `python -m benchmarks figures`; do not edit. Measured by `{command}` at "
            f"commit {commit_of(result)}; {machine_of(result)}; {pairs(result.parameters)}.\n",
            *_goals(result, package),
            f"## All figures\n\n{table(columns, rows)}",
        ]
    )


def _goals(result: Result, package: str) -> Iterator[str]:
    """Yield the goals of a result, with the reason for each that is missed."""
    goals = [row for row in GOALS if (row.name, row.package) == (result.name, package)]
    if not goals:
        return
    yield "## Goals\n"
    for row in goals:
        figures = [result.figure(key) for key in row.figures]
        rows = [
            (
                figure.title,
                f"**{_value(figure)}** ({middle_half(figure)}, n {figure.n})",
                f"{goal_of(figure)}{_of_worst(figure)}",
                yes_or_no(figure.reached),
            )
            for figure in figures
        ]
        yield f"{row.title[0].upper()}{row.title[1:]}: {row.goal}.\n"
        yield table(("figure", "measured (middle half)", "goal", "reached"), rows)
        if any(figure.reached is False for figure in figures):
            yield f"Not reached: {row.reason}.\n"


def _of_worst(figure: Figure) -> str:
    return ", worst value" if figure.goal is not None and figure.goal.of == "worst" else ""
