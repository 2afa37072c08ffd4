"""What a benchmark returns: figures with their spread and goals, and the origin of them."""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field

SIGNIFICANT_DIGITS = 5
RATIO = "ratio"


class BenchmarkError(Exception):
    """A figure that cannot be measured, or not shown; the message says what to do."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spread(_Frozen):
    """Measurements: median, the middle half [25th, 75th percentile], 90th percentile, largest."""

    median: float
    spread: tuple[float, float]
    p90: float
    worst: float
    n: Annotated[int, Field(ge=1)]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of values.

        Raises:
            BenchmarkError: there are none.
        """
        if not values:
            raise BenchmarkError("nothing was measured; see the log of the workers for the cause")
        several = [*values, *values] if len(values) == 1 else values  # one alone has no quantiles
        twentieths = quantiles(several, n=20, method="inclusive")
        return cls(
            median=rounded(median(values)),
            spread=(rounded(twentieths[4]), rounded(twentieths[14])),
            p90=rounded(twentieths[17]),
            worst=rounded(max(values)),
            n=len(values),
        )


class Goal(_Frozen):
    """A limit on one number of a figure's spread, inclusive."""

    sense: Literal["at most", "at least"]
    limit: float
    of: Literal["median", "worst"] = "median"

    def met_by(self, spread: Spread) -> bool:
        """Whether measurements reach the goal."""
        value: float = getattr(spread, self.of)
        return value <= self.limit if self.sense == "at most" else value >= self.limit


class Figure(Spread):
    """One figure in its unit; `sides` are what a ratio was made from, each n times.

    `key` names the figure within its benchmark, `what` is for a reader.
    """

    key: str
    what: str
    unit: str
    goal: Goal | None = None
    sides: dict[str, Spread] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return None if self.goal is None else self.goal.met_by(self)


def figure(
    key: str,
    what: str,
    unit: str,
    values: Sequence[float],
    *,
    goal: Goal | None = None,
    sides: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Return the figure of measured values."""
    return Figure(
        **Spread.of(values).model_dump(),
        key=key,
        what=what,
        unit=unit,
        goal=goal,
        sides={name: Spread.of(side) for name, side in (sides or {}).items()},
    )


def ratio(
    key: str,
    what: str,
    over: tuple[str, Sequence[float]],
    under: tuple[str, Sequence[float]],
    *,
    goal: Goal | None = None,
) -> Figure:
    """Return the figure of one side over another, pair by pair; a side is its name and values.

    Measurements of a pair were taken next to each other, so that what disturbs the machine
    disturbs both.
    """
    values = [ours / theirs for ours, theirs in zip(over[1], under[1], strict=True)]
    return figure(key, what, RATIO, values, goal=goal, sides=dict((over, under)))


class Measured(_Frozen):
    """What a benchmark measured, and with which parameters.

    `runs` has a row for each run of an experiment, none left out.
    """

    parameters: dict[str, Any]
    figures: tuple[Figure, ...]
    runs: Annotated[tuple[dict[str, Any], ...], Field(exclude_if=lambda runs: not runs)] = ()


class Result(Measured):
    """A measurement with its origin; `modified` is whether code differed from the commit."""

    name: str
    quick: bool
    machine: dict[str, Any]
    commit: str
    modified: bool

    def to_json(self) -> str:
        """Return the result as indented JSON, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"

    def figure(self, key: str) -> Figure:
        """Return one figure.

        Raises:
            BenchmarkError: this result has none of that key.
        """
        for found in self.figures:
            if found.key == key:
                return found
        raise BenchmarkError(
            f"the result of {self.name} has no figure {key!r}; measure it again with "
            f"`python -m benchmarks {self.name} --save`"
        )


def rounded(value: float) -> float:
    """Return a value in as many digits as results keep."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
