"""What the race came to, as a section of `docs/evidence.md`."""

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Final

from benchmarks.figures import table
from benchmarks.growth.cells import middle_of, runs_of
from benchmarks.growth.claims import Results
from benchmarks.growth.race import CANDIDATE, GROWN, HOST, NAME, STATIC_FINAL, TARGET, TASK
from benchmarks.growth.rows import Ledger, Row
from benchmarks.growth.statistics import Difference, paired

WORDS: Final = f"""\
Two digits in one image and the last digit of their sum, on a residual network of 2.8 million
parameters with the widths of ResNet-18's first three stages, on one GPU: seconds until the test
loss is {TARGET}, with all that growth does on the training thread, without compiling, which other
processes do meanwhile. `{STATIC_FINAL}` is what the grown network of its seed was when it reached
the target, from its `lineage.json`, with the same CUDA graphs; `candidates` trains each kernel that
could be planted from the start, one after another.
"""
COMMAND: Final = f"python -m benchmarks growth --suite {NAME} --seeds 18"
FASTER: Final = 1.1
NEAR: Final = 0.8
"""Of K candidates one after another: so many times K is about K."""

FEWEST: Final = 3
"""Pairs from which on an interval says something."""


def ratio(theirs: Mapping[int, float], ours: Mapping[int, float]) -> Difference | None:
    """Return how many times as long theirs take: the geometric mean over the seeds of both."""
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None
    logs = paired(*([log(times[seed]) for seed in seeds] for times in (theirs, ours)))
    return logs._replace(mean=exp(logs.mean), low=exp(logs.low), high=exp(logs.high))


def section(rows: Sequence[Row]) -> str:
    """Return the section; without rows it says with what command there would be some."""
    done = [row for row in rows if not row.error]
    if not done:
        return f"## Race\n\n{WORDS}\nNot run: it needs a GPU. The command: `{COMMAND}`.\n"
    results = Results(done)
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
        "the mean is",
        "steps, median",
        "n",
    )
    devices = ", ".join(sorted({row.device for row in done}))
    return (
        f"## Race\n\n{WORDS}\nRatios are geometric means over paired seeds with bootstrap 95 % "
        "intervals; below 1 is\nfaster than growing. A run that does not reach the target counts "
        "with all of its time, which is less\nthan it would need.\n\n"
        f"{table(head, lines)}\n{runs_of(rows)} On {devices}. The command: `{COMMAND}`.\n"
    )


def render() -> str:
    """Return the section of the committed rows."""
    return section(Ledger.of(NAME).rows)


def _times(results: Results, control: str) -> dict[int, float]:
    return {seed: _seconds(row) for seed, row in results.of(TASK.name, control).items()}


def _seconds(row: Row) -> float:
    return row.reached_s if row.reached_s is not None else row.train_s or 0.0


def _line(
    results: Results,
    control: str,
    ours: Mapping[int, float] | None = None,
    goal: float | None = None,
) -> tuple[str, ...]:
    """Return the line of a control, beside ours unless it is ours."""
    rows, times = list(results.of(TASK.name, control).values()), _times(results, control)
    against = None if ours is None else ratio(times, ours)
    return (
        f"`{control}`",
        _reached(rows),
        f"{middle_of(times.values()):.1f}",
        _told(against),
        "" if goal is None else f"≥ {goal:.3g}",
        _judged(against, goal),
        f"{middle_of(row.steps for row in rows):.0f}",
        str(len(rows)),
    )


def _together(
    results: Results, candidates: Sequence[str], ours: Mapping[int, float]
) -> tuple[str, ...]:
    """Return the line of all candidates together, for the seeds at which every one was run."""
    times = [_times(results, control) for control in candidates]
    seeds = set.intersection(*(set(each) for each in times))
    sums = {seed: sum(each[seed] for each in times) for seed in seeds}
    rows = [row for control in candidates for row in results.of(TASK.name, control).values()]
    against, goal = ratio(sums, ours), NEAR * len(candidates)
    return (
        f"`candidates`, all {len(candidates)}",
        _reached(rows),
        f"{middle_of(sums.values()):.1f}",
        _told(against),
        f"about {len(candidates)}: ≥ {goal:.3g}",
        _judged(against, goal),
        "",
        str(len(seeds)),
    )


def _reached(rows: Sequence[Row]) -> str:
    return f"{sum(row.reached_s is not None for row in rows)} of {len(rows)}"


def _told(against: Difference | None) -> str:
    if against is None:
        return ""
    if against.pairs < FEWEST:
        return f"{against.mean:.2f}"
    return f"{against.mean:.2f} ({against.low:.2f} to {against.high:.2f})"


def _judged(against: Difference | None, goal: float | None) -> str:
    """Say on which side of a goal the mean is, and where the interval is not on that side."""
    if against is None or goal is None:
        return ""
    if against.mean < goal:
        return "**below**"
    sure = against.low >= goal or against.pairs < FEWEST
    return "above" if sure else "above, its interval not"
