"""Whether a training loss is still sound: numbers in, an alarm or none out; nothing is touched.

Level and spread are the median and 1.4826 times the median absolute deviation of the last sound
losses, which a few wild ones do not move (Rousseeuw and Croux, "Alternatives to the median
absolute deviation", JASA 1993; scores over 3.5 are outliers to Iglewicz and Hoaglin, "How to detect
and handle outliers", 1993, section 3, and ours is looser, for losses are skewed and looked at at
every step). Only upwards counts. The same losses always lead to the same alarms.
"""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from esper.topics.models import IncidentKind

CONSISTENT: Final = 1.4826
"""The standard deviation of normal numbers over their median absolute deviation."""

BEAT: Final = 8
"""Losses after which the level is computed anew, and a collapse looked for."""


class GovernorRefused(ValueError):
    """Thresholds with which nothing could be told apart; the message says which."""


@dataclass(frozen=True, slots=True)
class GovernorSettings:
    """What the governor takes for an emergency, and what it keeps for one.

    A loss is wild when it lies over the median of the last `window` sound ones by more than `z`
    times their spread. The spread is at least `floor_share` of that median and of the run's first:
    a flat loss has none, and a rise that small is no emergency. `consecutive_outliers` wild losses are a
    divergence, one that is not finite is an incident at once. A collapse is a median over the last
    two beats (16 losses) which stays for `collapse_steps` steps over the level before the newest
    planting, by more than `collapse_z` times the spread of then. For `settle_steps` after something
    has gone, or weighs what it should by a plan, no finite loss is wild: what is left must learn to
    do without, and to blame it for that would take it out too.

    The ring holds up to `snapshots` copies of weights, buffers and optimizer state in host memory,
    `snapshot_bytes` altogether. With nothing on trial one is taken at each report, and is good at
    once; otherwise one every `confirm_steps`, at a report, which is good when so many sound losses
    in a row have come after it. Where two of everything do not fit, only what the optimizer
    trains is kept, and buffers; where those do not fit either nothing is, and an alarm only culls.
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
        """Raise GovernorRefused where a threshold makes no sense."""
        least = {
            "window": 2 * BEAT,
            "consecutive_outliers": 1,
            "settle_steps": 0,
            "collapse_steps": BEAT,
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
    """Where losses were, and how far they spread."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float
    spread: float


class LossMonitorState(BaseModel):
    """All that a watch remembers, for a snapshot or a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sound: tuple[float, ...] = ()
    latest: tuple[float, ...] = ()
    first: float | None = None
    level: Level | None = None
    before: Level | None = None
    beat: Annotated[int, Field(ge=0)] = 0
    wild: Annotated[int, Field(ge=0)] = 0
    settling: Annotated[int, Field(ge=0)] = 0
    above: Annotated[int, Field(ge=0)] = 0
    healthy_steps: Annotated[int, Field(ge=0)] = 0


class LossMonitor:
    """Looks at one loss after the other.

    `healthy_steps` counts the sound losses since the last that was wild, or was part of a collapse.
    """

    def __init__(self, settings: GovernorSettings) -> None:
        self._settings = settings
        self._sound: deque[float]
        self._latest: deque[float]
        self._first: float | None
        self._level: Level | None
        self._before: Level | None
        self._beat: int
        self._wild: int
        self._settling: int
        self._above: int
        self._limit: float
        self.healthy_steps: int
        self._put_back(LossMonitorState())

    @property
    def loss_monitor_state(self) -> LossMonitorState:
        """What it remembers now."""
        return LossMonitorState(
            sound=tuple(self._sound),
            latest=tuple(self._latest),
            first=self._first,
            level=self._level,
            before=self._before,
            beat=self._beat,
            wild=self._wild,
            settling=self._settling,
            above=self._above,
            healthy_steps=self.healthy_steps,
        )

    def see(self, loss: float) -> IncidentKind | None:
        """Take the next loss in; return what is wrong once enough is known."""
        if not math.isfinite(loss):
            self.healthy_steps = 0
            return IncidentKind.NAN
        self._latest.append(loss)
        settling, self._settling = self._settling > 0, max(self._settling - 1, 0)
        if loss > self._limit:
            self.healthy_steps = 0
            self._wild += not settling
            return (
                IncidentKind.DIVERGENCE
                if self._wild >= self._settings.consecutive_outliers
                else None
            )
        self._wild = 0
        self._sound.append(loss)
        self.healthy_steps += 1
        self._beat += 1
        return self._at_a_beat() if self._beat % BEAT == 0 else None

    def planted(self) -> None:
        """Something was planted: from now on the present level may not be lost."""
        level = self._level
        if level is not None and (self._before is None or level.median < self._before.median):
            self._before = level
        self._above = 0

    def settle(self, steps: int) -> None:
        """In so many steps something will have gone, or weigh what it should; negative: it has."""
        self._settling = max(self._settling, self._settings.settle_steps + steps)

    def clear_baseline(self) -> None:
        """Nothing is on trial any more."""
        self._before, self._above = None, 0

    def go_back(self, loss_monitor_state: LossMonitorState) -> None:
        """Remember what was known at a snapshot to which the run has returned."""
        self._put_back(
            loss_monitor_state.model_copy(
                update={"wild": 0, "settling": 0, "above": 0, "healthy_steps": 0}
            )
        )

    def forget(self) -> None:
        """Learn the level anew: what seemed an alarm is how things are."""
        self._put_back(LossMonitorState(first=self._first))

    def resume(self, loss_monitor_state: LossMonitorState) -> None:
        """Go on as after a checkpoint."""
        self._put_back(loss_monitor_state)

    def _at_a_beat(self) -> IncidentKind | None:
        if len(self._sound) < 2 * BEAT:
            return None
        middle = median(self._sound)
        if self._first is None:
            self._first = middle
        deviation = CONSISTENT * median(abs(loss - middle) for loss in self._sound)
        floor = self._settings.floor_share * max(abs(middle), abs(self._first))
        self._set_level(Level(median=middle, spread=max(deviation, floor)))
        before = self._before
        if before is None:
            return None
        margin = self._settings.collapse_z * before.spread
        if median(self._latest) <= before.median + margin:
            self._above = 0
            return None
        self.healthy_steps = 0
        self._above += BEAT
        return IncidentKind.COLLAPSE if self._above >= self._settings.collapse_steps else None

    def _set_level(self, level: Level | None) -> None:
        self._level = level
        self._limit = math.inf
        if level is not None:
            self._limit = level.median + self._settings.z * level.spread

    def _put_back(self, loss_monitor_state: LossMonitorState) -> None:
        self._sound = deque(loss_monitor_state.sound, self._settings.window)
        self._latest = deque(loss_monitor_state.latest, 2 * BEAT)
        self._first, self._before = loss_monitor_state.first, loss_monitor_state.before
        self._beat, self._wild, self._above = (
            loss_monitor_state.beat,
            loss_monitor_state.wild,
            loss_monitor_state.above,
        )
        self._settling, self.healthy_steps = (
            loss_monitor_state.settling,
            loss_monitor_state.healthy_steps,
        )
        self._set_level(loss_monitor_state.level)
