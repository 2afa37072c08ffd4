"""What the race came to, as a section of `docs/evidence.md`."""

from collections.abc import Mapping, Sequence
from math import exp, log
from statistics import median
from typing import Final, NamedTuple

from benchmarks.figures import table
from benchmarks.growth.race import CANDIDATE, GROWN, HOST, NAME, STATIC_FINAL, TARGET
from benchmarks.growth.rows import Ledger, Row
from benchmarks.growth.statistics import interval

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


class Ratio(NamedTuple):
    """A geometric mean of paired ratios of times with its 95 % interval, and the pairs."""

    mean: float
    low: float
    high: float
    pairs: int


def ratio(theirs: Mapping[int, float], ours: Mapping[int, float]) -> Ratio | None:
    """Return how many times as long theirs take, over the seeds of both."""
    seeds = sorted(theirs.keys() & ours.keys())
    if not seeds:
        return None
    logs = [log(theirs[seed] / ours[seed]) for seed in seeds]
    low, high = interval(logs)
    return Ratio(exp(sum(logs) / len(logs)), exp(low), exp(high), len(seeds))


def section(rows: Sequence[Row]) -> str:
    """Return the section; without rows it says with what command there would be some."""
    done = [row for row in rows if not row.error]
    if not done:
        return f"## Race\n\n{WORDS}\nNot run: it needs a GPU. The command: `{COMMAND}`.\n"
    ours = _times(done, GROWN)
    candidates = sorted({row.control for row in done if row.control.startswith(CANDIDATE)})
    lines = [
        _line(f"`{GROWN}`", done, GROWN),
        _line(
            f"`{STATIC_FINAL}`",
            done,
            STATIC_FINAL,
            ratio(_times(done, STATIC_FINAL), ours),
            FASTER,
        ),
        _line(f"`{HOST}`", done, HOST, ratio(_times(done, HOST), ours)),
    ]
    if candidates:
        lines.append(_candidates(done, candidates, ours))
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
    commits = ", ".join(sorted({row.commit for row in rows}))
    devices = ", ".join(sorted({row.device for row in done}))
    return (
        f"## Race\n\n{WORDS}\nRatios are geometric means over paired seeds with bootstrap 95 % "
        "intervals; below 1 is\nfaster than growing. A run that does not reach the target counts "
        "with all of its time, which is less\nthan it would need.\n\n"
        f"{table(head, lines)}\n{len(rows)} runs, of which "
        f"{len(rows) - len(done)} failed, on {devices}, of the code at: {commits}. The command: "
        f"`{COMMAND}`.\n"
    )


def render() -> str:
    """Return the section of the committed rows."""
    return section(Ledger.of(NAME).rows)


def _times(rows: Sequence[Row], control: str) -> dict[int, float]:
    return {row.seed: _seconds(row) for row in rows if row.control == control}


def _seconds(row: Row) -> float:
    return row.reached_s if row.reached_s is not None else row.train_s or 0.0


def _line(
    name: str,
    rows: Sequence[Row],
    control: str,
    against: Ratio | None = None,
    goal: float | None = None,
) -> tuple[str, ...]:
    own = [row for row in rows if row.control == control]
    if not own:
        return (name, *[""] * 6, "0")
    return (
        name,
        f"{sum(row.reached_s is not None for row in own)} of {len(own)}",
        f"{median(_seconds(row) for row in own):.1f}",
        _told(against),
        "" if goal is None else f"≥ {goal:.3g}",
        "" if goal is None or against is None else _judged(against, goal),
        f"{median(row.steps or 0 for row in own):.0f}",
        str(len(own)),
    )


def _candidates(
    rows: Sequence[Row], candidates: Sequence[str], ours: Mapping[int, float]
) -> tuple[str, ...]:
    """Return the line of all candidates together, for the seeds at which every one was run."""
    times = [_times(rows, control) for control in candidates]
    seeds = set.intersection(*(set(each) for each in times))
    sums = {seed: sum(each[seed] for each in times) for seed in seeds}
    own = [row for row in rows if row.control in candidates]
    against, goal = ratio(sums, ours), NEAR * len(candidates)
    return (
        f"`candidates`, all {len(candidates)}",
        f"{sum(row.reached_s is not None for row in own)} of {len(own)}",
        f"{median(sums.values()):.1f}" if sums else "",
        _told(against),
        f"about {len(candidates)}: ≥ {goal:.3g}",
        "" if against is None else _judged(against, goal),
        "",
        str(len(seeds)),
    )


def _told(against: Ratio | None) -> str:
    if against is None:
        return ""
    if against.pairs < 3:
        return f"{against.mean:.2f}"
    return f"{against.mean:.2f} ({against.low:.2f} to {against.high:.2f})"


def _judged(against: Ratio, goal: float) -> str:
    """Say on which side of a goal the mean is, and where the interval is not on that side."""
    if against.mean < goal:
        return "**below**"
    return "above" if against.low >= goal or against.pairs < 3 else "above, its interval not"
