"""Table cells of `docs/evidence.md`."""

from collections.abc import Iterable, Sequence
from statistics import mean, median

from experiments.evidence.statistics import Difference, interval
from experiments.growth.rows import RunRow


def average(values: Sequence[float], digits: int = 1) -> str:
    """Return the mean with its 95 % interval."""
    low, high = interval(values)
    return f"**{mean(values):.{digits}f}** ({low:.{digits}f} to {high:.{digits}f})"


def gain(difference: Difference | None, digits: int = 1) -> str:
    """Return the mean of paired differences with its interval; empty without pairs."""
    if difference is None:
        return ""
    middle, low, high = difference[:3]
    return f"{middle:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def median_of(values: Iterable[float | None]) -> float:
    """Return the median of the values that are not None; 0 if all are."""
    return median([value for value in values if value is not None] or [0])


def runs_of(rows: Sequence[RunRow]) -> str:
    """Return the number of runs, of failures, and the commits of the code."""
    failed = sum(bool(row.error) for row in rows)
    commits = ", ".join(sorted({row.commit for row in rows}))
    return f"{len(rows)} runs, {failed} of them failed, with the code of commit {commits}."
