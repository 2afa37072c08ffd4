"""The section of `docs/evidence.md` about finding one kernel among some 300 arms."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.page import table
from experiments.evidence.claims import ResultTable, points
from experiments.evidence.formatting import average, gain, median_of, runs_of
from experiments.growth.controls import HOST
from experiments.growth.rows import Ledger, RunRow
from experiments.haystack.suite import NAME, STATIC_RIGHT
from experiments.haystack.tasks import RIGHT, TASKS, family_of

AUDITION: Final = "audition"
RANDOM: Final = "random-policy"
CONTROLS: Final = (HOST, STATIC_RIGHT, AUDITION, RANDOM)

FOUND: Final = 0.9
FOUND_BY_CHANCE: Final = 0.3
LEAD: Final = 15.0
BELOW_RIGHT: Final = -1.0
MOST_TRIALS: Final = 3
NO_CHANGE: Final = 0.5
"""Points within which the null task must stay."""

TOO_FEW: Final = "too few runs"
FEWEST: Final = 3
"""Seeds below which no goal counts as reached or missed."""

INTRO: Final = f"""\
One kernel that the host lacks, among at least 300 arms: 55 blueprints at six sites, and more where
sites are sequences. `middle` has its bottleneck, and so its right site, at the third layer.
`{AUDITION}` is the default selection of runs with audition samples, which are the training samples;
`{RANDOM}` tries kernels in the network by chance, about 50 in a run. A run is *right* if the right
family is at the right site of the final network, on `null` if nothing is. CPU is that of audition
workers, in seconds, beside that of the training process.
"""
COMMAND: Final = f"python -m experiments {NAME} --seeds 20"


def section(rows: Sequence[RunRow]) -> str:
    """Return the section; without rows, the command that makes them."""
    done = [row for row in rows if not row.error]
    if not done:
        return f"## Haystack\n\n{INTRO}\nNot run. Command: `{COMMAND}`.\n"
    results = ResultTable(done)
    runs = (
        "task",
        "control",
        "n",
        "accuracy",
        "right",
        "trials",
        "CPU, training",
        "CPU, auditions",
    )
    goals = ("task", "goal", "measured", "reached")
    return (
        f"## Haystack\n\n{INTRO}\n{table(runs, list(_runs(results)))}\nPoints of test accuracy "
        "with bootstrap 95 % intervals; differences are those of pairs.\n\n"
        f"{table(goals, list(_goals(results)))}\n{runs_of(rows)} Command: `{COMMAND}`.\n"
    )


def render() -> str:
    """Return the section of the committed rows."""
    return section(Ledger.of(NAME).rows)


def _runs(results: ResultTable) -> Iterator[tuple[str, ...]]:
    for task in TASKS:
        for control in CONTROLS:
            rows = list(results.of(task, control).values())
            if not rows:
                continue
            live = control in (AUDITION, RANDOM)
            yield (
                task,
                control,
                str(len(rows)),
                average([points(row) for row in rows]),
                f"{sum(bool(row.right) for row in rows)} of {len(rows)}",
                f"{median_of(row.trials for row in rows):g}" if live else "",
                f"{median_of(row.cpu_s for row in rows):.1f}",
                f"{median_of(row.audition_cpu_s for row in rows):.1f}" if live else "",
            )


def _goals(results: ResultTable) -> Iterator[tuple[str, ...]]:
    """Yield the goals; with fewer than `FEWEST` seeds none is reached or missed."""
    counts = []
    for task in TASKS:
        ours = list(results.of(task, AUDITION).values())
        if not ours:
            continue
        counts.append(len(ours))
        goals = _found(results, task, ours) if RIGHT[task] else _unchanged(results, task)
        for *line, reached in goals:
            yield (*line, reached if len(ours) >= FEWEST else TOO_FEW)
    kept = [arm for row in _audition_rows(results) for arm in _arms(row)]
    if kept:
        right = sum(kept_right for kept_right in kept) / len(kept)
        goal = f"of {len(kept)} kernels in the networks, right: at least {FOUND:.0%}"
        reached = _word(right >= FOUND) if min(counts) >= FEWEST else TOO_FEW
        yield "all", goal, f"{right:.0%}", reached


def _unchanged(results: ResultTable, task: str) -> Iterator[tuple[str, ...]]:
    change = results.compare(task, AUDITION, HOST)
    inside = change is not None and change.low >= -NO_CHANGE and change.high <= NO_CHANGE
    yield task, f"within {NO_CHANGE:g} points of the host", gain(change, 2), _word(inside)


def _found(results: ResultTable, task: str, ours: Sequence[RunRow]) -> Iterator[tuple[str, ...]]:
    found = sum(bool(row.right) and (row.trials or 0) <= MOST_TRIALS for row in ours) / len(ours)
    goal = f"right with at most {MOST_TRIALS} trials in {FOUND:.0%} of runs"
    yield task, goal, f"{found:.0%}", _word(found >= FOUND)
    chance = list(results.of(task, RANDOM).values())
    if chance:
        share = sum(bool(row.right) for row in chance) / len(chance)
        goal = f"right by chance in at most {FOUND_BY_CHANCE:.0%}"
        yield task, goal, f"{share:.0%}", _word(share <= FOUND_BY_CHANCE)
        lead = results.compare(task, AUDITION, RANDOM)
        reached = lead is not None and lead.mean >= LEAD and lead.low > 0
        yield task, f"{LEAD:g} points above chance", gain(lead), _word(reached)
    below = results.compare(task, AUDITION, STATIC_RIGHT)
    if below is not None:
        goal = f"at most {-BELOW_RIGHT:g} point below the right kernel from the start"
        yield task, goal, gain(below), _word(below.mean >= BELOW_RIGHT)


def _audition_rows(results: ResultTable) -> Iterator[RunRow]:
    for task in TASKS:
        yield from results.of(task, AUDITION).values()


def _arms(row: RunRow) -> Iterator[bool]:
    """Yield, for each kernel in a network, whether it is of the right family."""
    for arm in row.kept:
        yield family_of(arm.rpartition("/")[2]) in RIGHT[row.task]


def _word(reached: bool) -> str:
    return "yes" if reached else "**no**"
