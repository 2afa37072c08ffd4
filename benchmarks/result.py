"""The result of a benchmark: figures with spread and goal, parameters, machine and commit."""

import json
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, computed_field

from esper.errors import EsperError

SIGNIFICANT_DIGITS = 5
RATIO = "ratio"
SHARE = "share"


class BenchmarkError(EsperError):
    """A figure cannot be measured or rendered."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spread(_Frozen):
    """Median, middle half (25th and 75th percentile), 90th percentile and maximum of n values."""

    median: float
    spread: tuple[float, float]
    p90: float
    worst: float
    n: Annotated[int, Field(ge=1)]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of values.

        Raises:
            BenchmarkError: `values` is empty.
        """
        if not values:
            raise BenchmarkError("nothing was measured; see the log of the workers for the cause")
        # `quantiles` needs two values at least.
        sample = [*values, *values] if len(values) == 1 else values
        twentieths = quantiles(sample, n=20, method="inclusive")
        return cls(
            median=rounded(median(values)),
            spread=(rounded(twentieths[4]), rounded(twentieths[14])),
            p90=rounded(twentieths[17]),
            worst=rounded(max(values)),
            n=len(values),
        )


class Goal(_Frozen):
    """An inclusive limit on the median or the worst value of a figure."""

    sense: Literal["at most", "at least"]
    limit: float
    of: Literal["median", "worst"] = "median"

    def met_by(self, spread: Spread) -> bool:
        """Return whether the measured values reach the goal."""
        value: float = getattr(spread, self.of)
        return value <= self.limit if self.sense == "at most" else value >= self.limit


class Figure(Spread):
    """One measured quantity: `key` is unique in its benchmark, `title` is for readers.

    `sides` holds numerator and denominator of a ratio, `n` values each.
    """

    key: str
    title: str
    unit: str
    goal: Goal | None = None
    sides: Annotated[dict[str, Spread], Field(exclude_if=lambda sides: not sides)] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        return None if self.goal is None else self.goal.met_by(self)


def figure(
    key: str,
    title: str,
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
        title=title,
        unit=unit,
        goal=goal,
        sides={name: Spread.of(side) for name, side in (sides or {}).items()},
    )


def ratio(
    key: str,
    title: str,
    over: tuple[str, Sequence[float]],
    under: tuple[str, Sequence[float]],
    *,
    goal: Goal | None = None,
) -> Figure:
    """Return the figure of `over` ÷ `under`, pair by pair; a side is (name, values).

    The two values of a pair are measured next to each other, so that a disturbance of the machine
    affects both.
    """
    values = [ours / theirs for ours, theirs in zip(over[1], under[1], strict=True)]
    return figure(key, title, RATIO, values, goal=goal, sides=dict((over, under)))


class Measurement(_Frozen):
    """The figures of one benchmark run and its parameters.

    `runs` has a row per training run, failed ones included; `curves` are the lines of plots.
    """

    parameters: dict[str, Any]
    figures: tuple[Figure, ...]
    runs: Annotated[tuple[dict[str, Any], ...], Field(exclude_if=lambda runs: not runs)] = ()
    curves: Annotated[
        dict[str, tuple[float, ...]], Field(exclude_if=lambda curves: not curves)
    ] = {}


class Result(Measurement):
    """A measurement with machine and commit; `modified`: the code differed from the commit."""

    name: str
    quick: bool
    machine: dict[str, Any]
    commit: str
    modified: bool

    def to_json(self) -> str:
        """Return the result as JSON with one line per figure, run and curve."""
        fields = self.model_dump(mode="json", exclude_none=True)
        fields["figures"] = [
            {name: entry[name] for name in ("key", "title", "unit")} | entry
            for entry in fields["figures"]
        ]
        lines = (f"{json.dumps(name)}: {_by_line(value)}" for name, value in fields.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def figure(self, key: str) -> Figure:
        """Return the figure of a key.

        Raises:
            BenchmarkError: the result has no such figure.
        """
        for found in self.figures:
            if found.key == key:
                return found
        raise BenchmarkError(
            f"the result of {self.name} has no figure {key!r}; measure it again with --save"
        )


def _by_line(value: Any) -> str:
    """Return JSON of a field; its items stand on a line each where they are containers."""
    if isinstance(value, list):
        items = [_in_line(item) for item in value]
    elif isinstance(value, dict) and any(isinstance(item, list) for item in value.values()):
        items = [f"{json.dumps(name)}: {_in_line(item)}" for name, item in value.items()]
    else:
        return _in_line(value)
    opening, closing = "[]" if isinstance(value, list) else "{}"
    return f"{opening}\n" + ",\n".join(items) + f"\n{closing}"


def _in_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def rounded(value: float) -> float:
    """Return a value rounded to the digits that results keep."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
