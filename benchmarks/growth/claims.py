"""What the known-answer suite claims, and whether its rows bear it out. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from benchmarks.growth.rows import Row
from benchmarks.growth.statistics import Difference, holm, paired

BANDIT: Final = "bandit"
ORACLE: Final = "oracle"
HOST: Final = "host"
FIXED: Final = "fixed/"
NULL: Final = "null"
SIGNIFICANT: Final = 0.05
RIGHT_SHARE: Final = 0.9
POINTS: Final = 100.0

Sense = Literal["more by", "less by at most", "within"]


class Claim(NamedTuple):
    """The bandit against a control of one teacher, in points of test accuracy."""

    task: str
    than: str
    sense: Sense
    points: float

    @property
    def tests(self) -> bool:
        """Whether it says that there is a difference, so that chance must be ruled out."""
        return self.sense == "more by"

    @property
    def goal(self) -> str:
        """The goal in few signs."""
        sign = {"more by": "≥ +", "less by at most": "≥ -", "within": "within ±"}[self.sense]
        return f"{sign}{self.points:g}"

    def holds(self, difference: Difference, p: float | None) -> bool:
        """Whether the goal is reached.

        A gain counts where its interval excludes zero, and its p-value among all claims is small.
        """
        if self.sense == "within":
            return abs(difference.mean) <= self.points
        if self.sense == "less by at most":
            return difference.mean >= -self.points
        sure = difference.low > 0 and p is not None and p <= SIGNIFICANT
        return difference.mean >= self.points and sure


class Verdict(NamedTuple):
    """A claim with what was measured; None where rows are missing. `p` is after Holm."""

    claim: Claim
    difference: Difference | None
    p: float | None
    reached: bool | None


def claims(tasks: Iterable[str]) -> Iterator[Claim]:
    """Yield what is claimed of each teacher."""
    for task in tasks:
        if task == NULL:
            yield Claim(task, HOST, "within", 0.5)
            continue
        yield Claim(task, "random", "more by", 5)
        yield Claim(task, "wide", "more by", 5 if task == "low-rank" else 10)
        yield Claim(task, ORACLE, "less by at most", 3)


def points(row: Row) -> float:
    """Return the test accuracy of a run in points.

    Raises:
        ValueError: it failed, or has none.
    """
    if row.test_accuracy is None:
        raise ValueError(f"{row.task} {row.control} {row.seed} has no accuracy")
    return POINTS * row.test_accuracy


class Results:
    """The rows of a suite by teacher and control, without those of runs that failed.

    The oracle is the fixed kernel, or none, with the least probe loss, of all `arms` of a teacher:
    it is there for the seeds at which every one of them was run.
    """

    def __init__(
        self, rows: Iterable[Row], arms: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        self._by: dict[tuple[str, str], dict[int, Row]] = {}
        for row in rows:
            if not row.error:
                self._by.setdefault((row.task, row.control), {})[row.seed] = row
        for task, controls in arms.items():
            if oracle := self._oracle(task, (HOST, *controls)):
                self._by[task, ORACLE] = oracle

    def of(self, task: str, control: str) -> dict[int, Row]:
        """Return the rows of a control by seed."""
        return self._by.get((task, control), {})

    def compare(
        self, task: str, ours: str, theirs: str, of: Callable[[Row], float] = points
    ) -> Difference | None:
        """Return how much more one control has than another, over the seeds of both.

        By points of test accuracy, unless `of` reads something else from a row.
        """
        one, other = self.of(task, ours), self.of(task, theirs)
        seeds = sorted(one.keys() & other.keys())
        if not seeds:
            return None
        return paired(*([of(rows[seed]) for seed in seeds] for rows in (one, other)))

    def right_share(self, task: str, control: str = BANDIT) -> float | None:
        """Return the share of runs in which the right kernel is at its site at the end."""
        rows = self.of(task, control)
        return sum(bool(row.right) for row in rows.values()) / len(rows) if rows else None

    def _oracle(self, task: str, controls: Sequence[str]) -> dict[int, Row]:
        seeds = set.intersection(*(set(self.of(task, control)) for control in controls))
        return {
            seed: min(
                (self.of(task, control)[seed] for control in controls),
                key=lambda row: float("inf") if row.probe_loss is None else row.probe_loss,
            )
            for seed in seeds
        }


def verdicts(results: Results, tasks: Iterable[str]) -> list[Verdict]:
    """Return every claim with what was measured; p-values are corrected over all of them."""
    compared = [(claim, results.compare(claim.task, BANDIT, claim.than)) for claim in claims(tasks)]
    corrected = holm(
        {
            f"{claim.task}/{claim.than}": difference.p
            for claim, difference in compared
            if claim.tests and difference is not None
        }
    )
    judged = []
    for claim, difference in compared:
        p = corrected.get(f"{claim.task}/{claim.than}")
        reached = None if difference is None else claim.holds(difference, p)
        judged.append(Verdict(claim, difference, p, reached))
    return judged
