"""Rendering `docs/figures.md` from the results that were kept, so that the two cannot differ."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.catalog import BENCHMARKS
from benchmarks.goals import ROWS, Row
from benchmarks.origin import ROOT
from benchmarks.result import RATIO, BenchmarkError, Figure, Result

DOCUMENT = ROOT / "docs" / "figures.md"
RESULTS = Path(__file__).parent / "results"

HEAD = """# Figures

Rendered by `python -m benchmarks figures` from `benchmarks/results/`; do not edit. To measure one
anew, on a machine that does nothing else: `python -m benchmarks NAME --save`, then render.

Values are medians, with the middle half (25th to 75th percentile) and the number of measurements.
Ratios are medians of the ratios of neighbouring measurements: both sides were taken in one run, in
turn. The ratios carry over to other machines, the times do not.
"""


def result_file(name: str) -> Path:
    """Return where the result of a benchmark is kept."""
    return RESULTS / f"{name}.json"


def kept_result(name: str) -> Result:
    """Return the result of a benchmark that was kept.

    Raises:
        BenchmarkError: there is none, or it is of a quick run, which measures nothing.
    """
    file = result_file(name)
    if not file.exists():
        raise BenchmarkError(
            f"no {file.name}; measure it with `python -m benchmarks {name} --save`"
        )
    result = Result.model_validate_json(file.read_bytes())
    if result.quick:
        raise BenchmarkError(
            f"{file.name} is from a quick run; measure it with "
            f"`python -m benchmarks {name} --save`, for what is of a quick run measures nothing"
        )
    return result


def kept_results() -> dict[str, Result]:
    """Return the results that were kept, by benchmark.

    Raises:
        BenchmarkError: one is from a quick run, which measures nothing.
    """
    names = (benchmark.name for benchmark in BENCHMARKS)
    return {name: kept_result(name) for name in names if result_file(name).exists()}


def render() -> str:
    """Return the whole document.

    Raises:
        BenchmarkError: a result lacks a figure that has a goal, or is from a quick run.
    """
    results = kept_results()
    sections = [HEAD, _goals(results)]
    sections += [
        _section(results[each.name])
        for each in BENCHMARKS
        if each.name in results and each.page is None
    ]
    return "\n".join(sections)


def _goals(results: dict[str, Result]) -> str:
    rows = [
        (row.what, row.goal, _measured(row, results), _verdict(row, results), row.command)
        for row in ROWS
    ]
    return f"## Goals\n\n{table(('figure', 'goal', 'measured', 'reached', 'command'), rows)}"


def _measured(row: Row, results: dict[str, Result]) -> str:
    if row.page:
        return f"see [{row.page}]({row.page})"
    result = results.get(row.benchmark)
    if result is None:
        return "not measured yet"
    return "<br>".join(_value_against_goal(result.figure(key)) for key in row.figures)


def _verdict(row: Row, results: dict[str, Result]) -> str:
    """Return yes; or no, or nothing, with the reason."""
    result = results.get(row.benchmark)
    if result is None:
        return ""
    missed = [key for key in row.figures if result.figure(key).reached is False]
    return f"no: {row.reason}" if missed else "yes"


def _value_against_goal(figure: Figure) -> str:
    value = figure.worst if figure.goal and figure.goal.of == "worst" else figure.median
    low, high = (number(bound) for bound in figure.spread)
    text = f"**{_with_unit(value, figure.unit)}** ({low} to {high}, n {figure.n})"
    if figure.goal is None:
        return f"{figure.what}: {text}"
    sign = {"at most": "≤", "at least": "≥"}[figure.goal.sense]
    of = "worst " if figure.goal.of == "worst" else ""
    return f"{figure.what}: {of}{text}, goal {sign} {number(figure.goal.limit)}"


def _section(result: Result) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    parameters = ", ".join(f"{name} {value}" for name, value in result.parameters.items())
    changed = ", with changes not in it" if result.modified else ""
    rows = [
        (
            figure.what,
            _with_unit(figure.median, figure.unit),
            " to ".join(number(bound) for bound in figure.spread),
            number(figure.p90),
            number(figure.worst),
            str(figure.n),
            "; ".join(f"{name} {number(side.median)}" for name, side in figure.sides.items()),
        )
        for figure in result.figures
    ]
    columns = ("figure", "median", "middle half", "p90", "worst", "n", "medians of both sides")
    return (
        f"## {result.name}\n\n`python -m benchmarks {result.name}` at commit {result.commit}"
        f"{changed}; {machine}; {parameters}.\n\n{table(columns, rows)}"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""

    def lines() -> Iterator[str]:
        yield _line(columns)
        yield _line(["---"] * len(columns))
        yield from map(_line, rows)

    return "\n".join(lines()) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _with_unit(value: float, unit: str) -> str:
    return number(value) if unit in (RATIO, "share") else f"{number(value)} {unit}"


def number(value: float) -> str:
    """Return a number in as many digits as a reader needs."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
