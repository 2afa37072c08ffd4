"""Detection of incidents in a stream of training losses; pure computation.

Level and spread are the median and 1.4826 times the median absolute deviation of the last healthy
losses: a few outliers do not move them (Rousseeuw and Croux, "Alternatives to the median absolute
deviation", JASA 1993). Iglewicz and Hoaglin ("How to detect and handle outliers", 1993, section 3)
call scores over 3.5 outliers; the default here is larger, because losses are skewed and every step
is tested. Only losses above the level count. The same losses always raise the same alarms.
"""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from esper.errors import EsperError
from esper.topics.models import IncidentKind

CONSISTENT: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

UPDATE_INTERVAL: Final = 8
"""Healthy losses between two updates of the level and two tests for a collapse."""


class GovernorRefused(EsperError, ValueError):
    """Settings with which the governor could not work; the message names the setting."""


@dataclass(frozen=True, slots=True)
class GovernorSettings:
    """When the governor raises an alarm, and how many snapshots it holds.

    A loss is an outlier if it exceeds the median of the last `window` healthy losses by more than
    `z` times their spread. The spread is at least `floor_share` of that median and of the run's
    first median, because a flat loss has no spread. Alarms:

    - nan: one loss that is not finite.
    - divergence: `consecutive_outliers` outliers in a row. For `settle_steps` steps after a cull,
      a rollback or a change of alpha no finite loss counts, because the rest of the model must
      adapt.
    - collapse: the median of the last 16 losses stays `collapse_z` times the spread above the
      baseline, the level before the newest planting, for `collapse_steps` steps.

    Up to `snapshots` copies of weights, buffers and optimizer state are held in host memory,
    `snapshot_bytes` in total. Without a seed on trial a snapshot is taken at each report and is
    good immediately; otherwise one is taken every `confirm_steps` steps, at a report, and is good
    after `confirm_steps` healthy losses in a row. If two full snapshots do not fit, frozen
    parameters are left out; if two still do not fit, none is taken and an alarm only culls.
    """

    window: int = 64
    z: float = 8.0
    consecutive_outliers: int = 5
    floor_share: float = 0.02
    settle_steps: int = 32
    collapse_z: float = 3.0
    collapse_steps: int = 96
    confirm_steps: int = 32
    snapshots: int = 2
    snapshot_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        """Raise GovernorRefused for a setting out of range."""
        least = {
            "window": 2 * UPDATE_INTERVAL,
            "consecutive_outliers": 1,
            "settle_steps": 0,
            "collapse_steps": UPDATE_INTERVAL,
            "confirm_steps": 1,
            "snapshots": 2,
            "snapshot_bytes": 0,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise GovernorRefused(f"{name} is {getattr(self, name)}; give at least {value}")
        for name in ("z", "floor_share", "collapse_z"):
            if not getattr(self, name) > 0:
                raise GovernorRefused(f"{name} is {getattr(self, name)}; give more than 0")


class Level(BaseModel):
    """The median of losses and their spread, a standard deviation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float
    spread: float


class LossMonitorState(BaseModel):
    """The state of a `LossMonitor`, for a snapshot or a checkpoint.

    `healthy` are the last losses without outliers, `recent` the last with outliers, `first_median`
    the run's first median. `baseline` is the level that no seed on trial may lose, `above` the
    steps spent over it. `seen` counts healthy losses, `outliers` those in a row, `settle_steps`
    the steps left of the settle window, `healthy_steps` the losses since the last outlier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    healthy: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    first_median: float | None = None
    level: Level | None = None
    baseline: Level | None = None
    seen: Annotated[int, Field(ge=0)] = 0
    outliers: Annotated[int, Field(ge=0)] = 0
    settle_steps: Annotated[int, Field(ge=0)] = 0
    above: Annotated[int, Field(ge=0)] = 0
    healthy_steps: Annotated[int, Field(ge=0)] = 0


class LossMonitor:
    """Takes the losses of a run one by one and raises alarms.

    `healthy_steps` counts the losses since the last outlier and the last loss of a collapse.
    """

    def __init__(self, settings: GovernorSettings) -> None:
        self._settings = settings
        self._healthy: deque[float]
        self._recent: deque[float]
        self._first_median: float | None
        self._level: Level | None
        self._baseline: Level | None
        self._seen: int
        self._outliers: int
        self._settle_steps: int
        self._above: int
        self._limit: float
        self.healthy_steps: int
        self.load_state(LossMonitorState())

    @property
    def state(self) -> LossMonitorState:
        """The present state, for `load_state`."""
        return LossMonitorState(
            healthy=tuple(self._healthy),
            recent=tuple(self._recent),
            first_median=self._first_median,
            level=self._level,
            baseline=self._baseline,
            seen=self._seen,
            outliers=self._outliers,
            settle_steps=self._settle_steps,
            above=self._above,
            healthy_steps=self.healthy_steps,
        )

    def load_state(self, state: LossMonitorState) -> None:
        """Continue from a state."""
        self._healthy = deque(state.healthy, self._settings.window)
        self._recent = deque(state.recent, 2 * UPDATE_INTERVAL)
        self._first_median, self._baseline = state.first_median, state.baseline
        self._seen, self._outliers = state.seen, state.outliers
        self._settle_steps, self._above = state.settle_steps, state.above
        self.healthy_steps = state.healthy_steps
        self._set_level(state.level)

    def update(self, loss: float) -> IncidentKind | None:
        """Take the next loss; return the kind of an incident, or None."""
        if not math.isfinite(loss):
            self.healthy_steps = 0
            return IncidentKind.NAN
        self._recent.append(loss)
        settling = self._settle_steps > 0
        self._settle_steps = max(self._settle_steps - 1, 0)
        if loss > self._limit:
            self.healthy_steps = 0
            self._outliers += not settling
            diverged = self._outliers >= self._settings.consecutive_outliers
            return IncidentKind.DIVERGENCE if diverged else None
        self._outliers = 0
        self._healthy.append(loss)
        self.healthy_steps += 1
        self._seen += 1
        return self._update_level() if self._seen % UPDATE_INTERVAL == 0 else None

    def set_baseline(self) -> None:
        """Make the present level the baseline, unless the baseline is lower: a seed was planted."""
        level = self._level
        if level is not None and (self._baseline is None or level.median < self._baseline.median):
            self._baseline = level
        self._above = 0

    def clear_baseline(self) -> None:
        """Stop testing for a collapse: no seed is on trial."""
        self._baseline, self._above = None, 0

    def settle(self, steps: int) -> None:
        """Start the settle window `steps` steps from now; a negative value: it has started."""
        self._settle_steps = max(self._settle_steps, self._settings.settle_steps + steps)

    def return_to(self, state: LossMonitorState) -> None:
        """Continue from the state of a snapshot, with the counts of outliers and steps at 0."""
        counts = dict.fromkeys(("outliers", "settle_steps", "above", "healthy_steps"), 0)
        self.load_state(state.model_copy(update=counts))

    def reset(self) -> None:
        """Forget all but the first median, and learn the level again: the alarm was false."""
        self.load_state(LossMonitorState(first_median=self._first_median))

    def _update_level(self) -> IncidentKind | None:
        if len(self._healthy) < 2 * UPDATE_INTERVAL:
            return None
        middle = median(self._healthy)
        if self._first_median is None:
            self._first_median = middle
        deviation = CONSISTENT * median(abs(loss - middle) for loss in self._healthy)
        floor = self._settings.floor_share * max(abs(middle), abs(self._first_median))
        self._set_level(Level(median=middle, spread=max(deviation, floor)))
        baseline = self._baseline
        if baseline is None:
            return None
        margin = self._settings.collapse_z * baseline.spread
        if median(self._recent) <= baseline.median + margin:
            self._above = 0
            return None
        self.healthy_steps = 0
        self._above += UPDATE_INTERVAL
        return IncidentKind.COLLAPSE if self._above >= self._settings.collapse_steps else None

    def _set_level(self, level: Level | None) -> None:
        self._level = level
        self._limit = math.inf
        if level is not None:
            self._limit = level.median + self._settings.z * level.spread
