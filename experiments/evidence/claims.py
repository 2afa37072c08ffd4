"""The claims of the known-answer suite, judged by its rows. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from experiments.evidence.statistics import Difference, holm, paired
from experiments.growth.rows import RunRow

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
    """A claim about bandit - control on one teacher, in points of test accuracy."""

    task: str
    than: str
    sense: Sense
    points: float

    @property
    def needs_significance(self) -> bool:
        """Whether the claim needs a significant difference."""
        return self.sense == "more by"

    @property
    def goal(self) -> str:
        """The goal as text, such as `≥ +5`."""
        sign = {"more by": "≥ +", "less by at most": "≥ -", "within": "within ±"}[self.sense]
        return f"{sign}{self.points:g}"

    def holds(self, difference: Difference, p: float | None) -> bool:
        """Return whether the goal is reached.

        A gain also needs an interval above zero and a corrected p-value of at most 0.05.
        """
        if self.sense == "within":
            return abs(difference.mean) <= self.points
        if self.sense == "less by at most":
            return difference.mean >= -self.points
        significant = difference.low > 0 and p is not None and p <= SIGNIFICANT
        return difference.mean >= self.points and significant


class ClaimResult(NamedTuple):
    """A claim with its measurement; None without rows. `p` is corrected by Holm."""

    claim: Claim
    difference: Difference | None
    p: float | None
    reached: bool | None


def claims(tasks: Iterable[str]) -> Iterator[Claim]:
    """Yield the claims for each teacher."""
    for task in tasks:
        if task == NULL:
            yield Claim(task, HOST, "within", 0.5)
            continue
        yield Claim(task, "random", "more by", 5)
        yield Claim(task, "wide", "more by", 5 if task == "low-rank" else 10)
        yield Claim(task, ORACLE, "less by at most", 3)


def points(row: RunRow) -> float:
    """Return the test accuracy of a run in points.

    Raises:
        ValueError: the row has no accuracy.
    """
    if row.test_accuracy is None:
        raise ValueError(f"{row.task} {row.control} {row.seed} has no accuracy")
    return POINTS * row.test_accuracy


class ResultTable:
    """The rows of a suite by task and control, without failed runs.

    The control `oracle` is the run with the lowest probe loss among the host and all `arms` of a
    teacher. It exists for the seeds at which all of them were run.
    """

    def __init__(
        self, rows: Iterable[RunRow], arms: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        self._rows: dict[tuple[str, str], dict[int, RunRow]] = {}
        for row in rows:
            if not row.error:
                self._rows.setdefault((row.task, row.control), {})[row.seed] = row
        for task, controls in arms.items():
            if oracle := self._oracle(task, (HOST, *controls)):
                self._rows[task, ORACLE] = oracle

    def of(self, task: str, control: str) -> dict[int, RunRow]:
        """Return the rows of a control by seed."""
        return self._rows.get((task, control), {})

    def compare(
        self, task: str, ours: str, theirs: str, of: Callable[[RunRow], float] = points
    ) -> Difference | None:
        """Return ours - theirs over the seeds of both; None if they share no seed.

        `of` reads the compared value from a row: points of test accuracy by default.
        """
        first, second = self.of(task, ours), self.of(task, theirs)
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            return None
        return paired(*([of(rows[seed]) for seed in seeds] for rows in (first, second)))

    def right_share(self, task: str, control: str = BANDIT) -> float | None:
        """Return the share of runs that end with the right kernel at its site."""
        rows = self.of(task, control)
        return sum(bool(row.right) for row in rows.values()) / len(rows) if rows else None

    def _oracle(self, task: str, controls: Sequence[str]) -> dict[int, RunRow]:
        seeds = set.intersection(*(set(self.of(task, control)) for control in controls))
        return {
            seed: min(
                (self.of(task, control)[seed] for control in controls),
                key=lambda row: float("inf") if row.probe_loss is None else row.probe_loss,
            )
            for seed in seeds
        }


def claim_results(results: ResultTable, tasks: Iterable[str]) -> list[ClaimResult]:
    """Return every claim with its measurement; p-values are corrected over all claims."""
    compared = [(claim, results.compare(claim.task, BANDIT, claim.than)) for claim in claims(tasks)]
    corrected = holm(
        {
            f"{claim.task}/{claim.than}": difference.p
            for claim, difference in compared
            if claim.needs_significance and difference is not None
        }
    )
    judged = []
    for claim, difference in compared:
        p = corrected.get(f"{claim.task}/{claim.than}")
        reached = None if difference is None else claim.holds(difference, p)
        judged.append(ClaimResult(claim, difference, p, reached))
    return judged
