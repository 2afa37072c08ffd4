"""The sections of `docs/evidence.md` about growth against baselines."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from benchmarks.page import table
from experiments.evidence.claims import ResultTable, points
from experiments.evidence.formatting import average, gain, median_of, runs_of
from experiments.evidence.statistics import Difference
from experiments.growth.baselines import ESPER
from experiments.growth.rows import Ledger, RunRow


class BaselineReport(NamedTuple):
    """How the page shows one comparison.

    `of` reads the compared value, named `quantity`, from a row; it is printed with `digits`
    decimals, and `more_is_better` gives its direction. `goals` maps a baseline to the margin by
    which it may be better than the grown network at the unfavourable end of the interval.
    """

    suite: str
    intro: str
    quantity: str
    of: Callable[[RunRow], float]
    digits: int
    more_is_better: bool
    goals: dict[str, float]


def loss_of(row: RunRow) -> float:
    """Return the test loss of a run.

    Raises:
        ValueError: the row has no loss.
    """
    if row.test_loss is None:
        raise ValueError(f"{row.task} {row.control} {row.seed} has no loss")
    return row.test_loss


BASELINE_REPORTS: Final = (
    BaselineReport(
        suite="digits",
        intro="""\
Images of digits, on a host of 862 parameters. Each baseline has about as many parameters as the
grown network of its seed: `wide` is the host made wider, `adapters` the host with low-rank adapters
from the start, `gromo` and `gromo-plain` the host grown by the library gromo (PyPI), with its batch
normalisation and without. Esper grows in a tournament from the first step on: 12 kernels are on
trial together, each enters once, learns for 28 reports of 10 steps, and stays if the probe loss
without it would be half as much again (`TOURNAMENT` in `esper.bandit`, tuned by probe loss on seeds
from 1000 on). After the tournament no kernel is planted or culled. `auditions` is the host grown
with the selection of runs that have audition samples (the last 30 % of the training samples),
tuned on no digits.""",
        quantity="test accuracy",
        of=points,
        digits=1,
        more_is_better=True,
        goals={"gromo": 0.5, "adapters": 0.5, "wide": 0.5},
    ),
    BaselineReport(
        suite="charlm",
        intro="""\
The next character of the standard library's sources, on a small transformer. The controls
`..-as-long` train as long as the grown run took, with compiling, probing and waiting; `wide` has as
many parameters.""",
        quantity="test loss",
        of=loss_of,
        digits=3,
        more_is_better=False,
        goals={"wide": 0.0, "host-as-long": 0.0, "wide-as-long": 0.0},
    ),
)


def sections() -> list[str]:
    """Return a section for each comparison that has rows."""
    reports = [(report, Ledger.of(report.suite).rows) for report in BASELINE_REPORTS]
    return [section(report, rows) for report, rows in reports if rows]


def section(report: BaselineReport, rows: Sequence[RunRow]) -> str:
    """Return the section of one comparison."""
    results, controls = ResultTable(rows), {row.control for row in rows if not row.error}
    direction = "Higher" if report.more_is_better else "Lower"
    head = (
        "control",
        report.quantity,
        "the grown network is better by",
        "goal",
        "reached",
        "parameters",
        "CPU s",
        "n",
    )
    lines = [_line(report, control, results) for control in (ESPER, *sorted(controls - {ESPER}))]
    return (
        f"## {report.suite.capitalize()}\n\n{report.intro}\n\n"
        f"{direction} {report.quantity} is better. A goal is reached if the whole interval meets "
        f"it.\n\n{table(head, lines)}\n{runs_of(rows)}\n"
    )


def _line(report: BaselineReport, control: str, results: ResultTable) -> tuple[str, ...]:
    rows = list(results.of(report.suite, control).values())
    if not rows:
        return (f"`{control}`", "not run", *[""] * 5, "0")
    advantage, margin = _advantage(report, control, results), report.goals.get(control)
    return (
        f"`{control}`",
        average([report.of(row) for row in rows], report.digits),
        gain(advantage, report.digits),
        "" if margin is None else (f"≥ -{margin:g}" if margin else "> 0"),
        "" if margin is None or advantage is None else _reached(advantage, margin),
        f"{median_of(row.params for row in rows):,.0f}",
        f"{median_of(row.cpu_s for row in rows):.2g}",
        str(len(rows)),
    )


def _advantage(report: BaselineReport, control: str, results: ResultTable) -> Difference | None:
    """Return by how much the grown network is better than a baseline."""
    if control == ESPER:
        return None
    pair = (ESPER, control) if report.more_is_better else (control, ESPER)
    return results.compare(report.suite, *pair, report.of)


def _reached(difference: Difference, margin: float) -> str:
    return "yes" if difference.low > -margin else "**no**"
