"""Cells of the tables of `docs/evidence.md`: what was measured, in few signs."""

from collections.abc import Iterable, Sequence
from statistics import mean, median

from benchmarks.growth.rows import Row
from benchmarks.growth.statistics import Difference, interval


def average(values: Sequence[float], places: int = 1) -> str:
    """Return the mean with its 95 % interval."""
    low, high = interval(values)
    return f"**{mean(values):.{places}f}** ({low:.{places}f} to {high:.{places}f})"


def gain(difference: Difference | None, places: int = 1) -> str:
    """Return the mean of paired differences with its interval; nothing where there are no pairs."""
    if difference is None:
        return ""
    middle, low, high = difference[:3]
    return f"{middle:+.{places}f} ({low:+.{places}f} to {high:+.{places}f})"


def middle_of(values: Iterable[float | None]) -> float:
    """Return the median of what there is; 0 of nothing."""
    return median([value for value in values if value is not None] or [0])


def runs_of(rows: Sequence[Row]) -> str:
    """Return how many runs there were, and of which code."""
    failed = sum(bool(row.error) for row in rows)
    commits = ", ".join(sorted({row.commit for row in rows}))
    return f"{len(rows)} runs, of which {failed} failed, of the code at: {commits}."
