"""The section of `docs/evidence.md` about the time to a target loss."""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Final

from benchmarks.page import table
from experiments.evidence.claims import ResultTable
from experiments.evidence.formatting import median_of, runs_of
from experiments.evidence.statistics import Difference, paired
from experiments.growth.race import CANDIDATE, GROWN, HOST, NAME, STATIC_FINAL, TARGET, TASK
from experiments.growth.rows import Ledger, RunRow

INTRO: Final = f"""\
Two digits in one image and the last digit of their sum, on a residual network of 2.8 million
parameters with the widths of ResNet-18's first three stages, on one GPU: seconds until the test
loss is {TARGET}, with growth on the training thread, without compiling, which runs in other
processes. `{STATIC_FINAL}` is the grown network of its seed as it was at the target, built from its
`lineage.json`, with the same CUDA graphs; `candidates` trains each kernel that can be planted from
the start, one after another.
"""
COMMAND: Final = f"python -m experiments {NAME} --seeds 18"
FASTER: Final = 1.1
NEAR: Final = 0.8
"""Share of K that counts as about K times as long, for K candidates one after another."""

FEWEST: Final = 3
"""Fewest pairs for which an interval is shown."""


def ratio(theirs: Mapping[int, float], ours: Mapping[int, float]) -> Difference | None:
    """Return the time ratio theirs ÷ ours: geometric mean over the seeds of both."""
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None
    logs = paired(*([log(times[seed]) for seed in seeds] for times in (theirs, ours)))
    return logs._replace(mean=exp(logs.mean), low=exp(logs.low), high=exp(logs.high))


def section(rows: Sequence[RunRow]) -> str:
    """Return the section; without rows, the command that makes them."""
    done = [row for row in rows if not row.error]
    if not done:
        return f"## Race\n\n{INTRO}\nNot run: this suite needs a GPU. Command: `{COMMAND}`.\n"
    results = ResultTable(done)
    ours = _times(results, GROWN)
    candidates = sorted({row.control for row in done if row.control.startswith(CANDIDATE)})
    lines = [
        _line(results, GROWN),
        _line(results, STATIC_FINAL, ours, FASTER),
        _line(results, HOST, ours),
    ]
    if candidates:
        lines.append(_together(results, candidates, ours))
    head = (
        "control",
        "reached",
        "s, median",
        "÷ grown",
        "goal",
        "mean against goal",
        "steps, median",
        "n",
    )
    devices = ", ".join(sorted({row.device for row in done}))
    return (
        f"## Race\n\n{INTRO}\nRatios are geometric means over paired seeds with bootstrap 95 % "
        "intervals; below 1 is\nfaster than growing. A run that does not reach the target counts "
        "with its whole training time, a lower\nbound.\n\n"
        f"{table(head, lines)}\n{runs_of(rows)} On {devices}. Command: `{COMMAND}`.\n"
    )


def render() -> str:
    """Return the section of the committed rows."""
    return section(Ledger.of(NAME).rows)


def _times(results: ResultTable, control: str) -> dict[int, float]:
    return {seed: _seconds(row) for seed, row in results.of(TASK.name, control).items()}


def _seconds(row: RunRow) -> float:
    return row.reached_s if row.reached_s is not None else row.train_s or 0.0


def _line(
    results: ResultTable,
    control: str,
    ours: Mapping[int, float] | None = None,
    goal: float | None = None,
) -> tuple[str, ...]:
    """Return the line of a control; `ours` are the times to compare with, by seed."""
    rows, times = list(results.of(TASK.name, control).values()), _times(results, control)
    against = None if ours is None else ratio(times, ours)
    return (
        f"`{control}`",
        _reached(rows),
        f"{median_of(times.values()):.1f}",
        _ratio_text(against),
        "" if goal is None else f"≥ {goal:.3g}",
        _against_goal(against, goal),
        f"{median_of(row.steps for row in rows):.0f}",
        str(len(rows)),
    )


def _together(
    results: ResultTable, candidates: Sequence[str], ours: Mapping[int, float]
) -> tuple[str, ...]:
    """Return the line of all candidates together, over the seeds at which all of them were run."""
    times = [_times(results, control) for control in candidates]
    seeds = set.intersection(*(set(by_seed) for by_seed in times))
    sums = {seed: sum(by_seed[seed] for by_seed in times) for seed in seeds}
    rows = [row for control in candidates for row in results.of(TASK.name, control).values()]
    against, goal = ratio(sums, ours), NEAR * len(candidates)
    return (
        f"`candidates`, all {len(candidates)}",
        _reached(rows),
        f"{median_of(sums.values()):.1f}",
        _ratio_text(against),
        f"about {len(candidates)}: ≥ {goal:.3g}",
        _against_goal(against, goal),
        "",
        str(len(seeds)),
    )


def _reached(rows: Sequence[RunRow]) -> str:
    return f"{sum(row.reached_s is not None for row in rows)} of {len(rows)}"


def _ratio_text(against: Difference | None) -> str:
    if against is None:
        return ""
    if against.pairs < FEWEST:
        return f"{against.mean:.2f}"
    return f"{against.mean:.2f} ({against.low:.2f} to {against.high:.2f})"


def _against_goal(against: Difference | None, goal: float | None) -> str:
    """Return whether the mean is above the goal, and whether its interval is not."""
    if against is None or goal is None:
        return ""
    if against.mean < goal:
        return "**below**"
    certain = against.low >= goal or against.pairs < FEWEST
    return "above" if certain else "above, its interval not"
