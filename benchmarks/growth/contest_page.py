"""What the contests came to, as sections of `docs/evidence.md`."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from benchmarks.figures import table
from benchmarks.growth.cells import average, gain, middle_of, runs_of
from benchmarks.growth.claims import Results, points
from benchmarks.growth.contest import ESPER
from benchmarks.growth.rows import Ledger, Row
from benchmarks.growth.statistics import Difference


class Told(NamedTuple):
    """A contest as the page tells it.

    `of` reads what is compared from a row, which is called `what` and printed with so many
    `places`; more of it is better where `more`. A rival that is named in `goals` is not to be
    better than the grown network by more than is said there, at the safe end of the interval.
    """

    suite: str
    words: str
    what: str
    of: Callable[[Row], float]
    places: int
    more: bool
    goals: dict[str, float]


def loss_of(row: Row) -> float:
    """Return the test loss of a run.

    Raises:
        ValueError: it failed, or has none.
    """
    if row.test_loss is None:
        raise ValueError(f"{row.task} {row.control} {row.seed} has no loss")
    return row.test_loss


CONTESTS: Final = (
    Told(
        suite="digits",
        words="Images of digits, on a host of 862 parameters. Each rival has about as many "
        "parameters as the grown\nnetwork of its seed: the host made wider, the host with "
        "low-rank adapters from the start, and the host\ngrown by gromo (PyPI), with its batch "
        "normalisation and without. It grows\nin a tournament from the first step on: 12 kernels "
        "are on trial at once, each enters once, learns for\n28 reports of 10 steps, and stays if "
        "the probe loss would be half as much again without it\n(`TOURNAMENT` in "
        "`esper.bandit`, found by probe loss on seeds from 1000 on). What remains of a "
        "run\nis left in peace.",
        what="test accuracy",
        of=points,
        places=1,
        more=True,
        goals={"gromo": 0.5, "adapters": 0.5, "wide": 0.5},
    ),
    Told(
        suite="charlm",
        words="The next character of the standard library's sources, on a small transformer. "
        "`..-as-long` train for as\nlong as the grown run took, compiling, probing and waiting "
        "counted; `wide` has as many parameters.",
        what="test loss",
        of=loss_of,
        places=3,
        more=False,
        goals={"wide": 0.0, "host-as-long": 0.0, "wide-as-long": 0.0},
    ),
)


def sections() -> list[str]:
    """Return a section for each contest that has rows."""
    told = [(contest, Ledger.of(contest.suite).rows) for contest in CONTESTS]
    return [section(contest, rows) for contest, rows in told if rows]


def section(contest: Told, rows: Sequence[Row]) -> str:
    """Return the table of one contest, and which rows it is of."""
    results, controls = Results(rows), {row.control for row in rows if not row.error}
    better = "more" if contest.more else "less"
    head = (
        "control",
        contest.what,
        "the grown one is better by",
        "goal",
        "reached",
        "parameters",
        "CPU s",
        "n",
    )
    lines = [_line(contest, control, results) for control in (ESPER, *sorted(controls - {ESPER}))]
    return (
        f"## {contest.suite.capitalize()}\n\n{contest.words}\n\n"
        f"Of {contest.what}, {better} is better. A goal is reached where the whole interval is "
        f"above it.\n\n{table(head, lines)}\n{runs_of(rows)}\n"
    )


def _line(contest: Told, control: str, results: Results) -> tuple[str, ...]:
    rows = list(results.of(contest.suite, control).values())
    if not rows:
        return (f"`{control}`", "not run", *[""] * 5, "0")
    against, margin = _against(contest, control, results), contest.goals.get(control)
    return (
        f"`{control}`",
        average([contest.of(row) for row in rows], contest.places),
        gain(against, contest.places),
        "" if margin is None else (f"≥ -{margin:g}" if margin else "> 0"),
        "" if margin is None or against is None else _reached(against, margin),
        f"{middle_of(row.params for row in rows):,.0f}",
        f"{middle_of(row.cpu_s for row in rows):.2g}",
        str(len(rows)),
    )


def _against(contest: Told, control: str, results: Results) -> Difference | None:
    """Return by how much the grown network is better than a rival."""
    if control == ESPER:
        return None
    pair = (ESPER, control) if contest.more else (control, ESPER)
    return results.compare(contest.suite, *pair, contest.of)


def _reached(difference: Difference, margin: float) -> str:
    return "yes" if difference.low > -margin else "**no**"
