"""The trials of one arm or slot, in constant memory."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from esper.bandit.arm_arrays import FloatArray
from esper.bandit.discounting import Discounting

RECENT = 8
"""The number of rewards that a trend uses; a window policy keeps its whole window."""


class TrialResult(BaseModel):
    """The result of one trial: its reward in [0, 1], and the values behind it.

    `contribution` is the mean of the measured paired differences (None without a measurement),
    `params` the kernel's parameters, `seq` the report that ended the trial.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reward: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    contribution: float | None = None
    params: int = 0
    seq: int = 0


class ArmHistory(BaseModel):
    """The statistics of one arm's or slot's trials: lifetime, discounted and recent.

    `squares` is the sum of squared deviations (Welford, "Note on a Method for Calculating Corrected
    Sums of Squares and Products", Technometrics 4, 1962). `weight` and `weighted_mean` are
    discounted up to the bandit's trial `last_trial`. `recent` holds (trial number, reward), the
    newest last. `params`, `contribution` and `last_seq` belong to the last trial.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pulls: int = 0
    mean: float = 0.0
    squares: float = 0.0
    weight: float = 0.0
    weighted_mean: float = 0.0
    recent: tuple[tuple[int, float], ...] = ()
    contribution: float | None = None
    params: int = 0
    last_seq: int = -1
    last_trial: int = 0

    @property
    def variance(self) -> float:
        """The variance of the rewards; 0 with fewer than two."""
        return self.squares / self.pulls if self.pulls else 0.0

    @property
    def trend(self) -> float:
        """The least-squares slope of the last `RECENT` rewards, per trial; 0 for fewer than 2."""
        rewards = [reward for _, reward in self.recent[-RECENT:]]
        middle = (len(rewards) - 1) / 2
        spread = math.fsum((index - middle) ** 2 for index in range(len(rewards)))
        if not spread:
            return 0.0
        return math.fsum((index - middle) * r for index, r in enumerate(rewards)) / spread

    def reports_since(self, seq: int) -> int | None:
        """Return the number of reports since the last trial, at report `seq`; None without one."""
        return seq - self.last_seq if self.pulls else None

    def after(self, trial: TrialResult, number: int, discounting: Discounting) -> "ArmHistory":
        """Return the history with one more trial, the bandit's `number`-th."""
        pulls, reward = self.pulls + 1, trial.reward
        mean = self.mean + (reward - self.mean) / pulls
        kept = self.weight * discount_power(discounting.discount, number - self.last_trial)
        weight = kept + 1.0
        recent = (*self.recent, (number, reward))
        return ArmHistory(
            pulls=pulls,
            mean=mean,
            squares=self.squares + (reward - self.mean) * (reward - mean),
            weight=weight,
            weighted_mean=self.weighted_mean + (reward - self.weighted_mean) / weight,
            recent=recent[-max(RECENT, discounting.window or 0) :],
            contribution=trial.contribution,
            params=trial.params,
            last_seq=trial.seq,
            last_trial=number,
        )

    def moments(self, discounting: Discounting, trials: int) -> tuple[float, float, float]:
        """Return discounted weight, mean and variance, after the bandit's `trials` trials."""
        if discounting.window is not None:
            since = trials - discounting.window
            return _moments([reward for number, reward in self.recent if number > since])
        if discounting.discount < 1.0:
            weight = self.weight * discount_power(discounting.discount, trials - self.last_trial)
            return weight, self.weighted_mean, self.variance
        return float(self.pulls), self.mean, self.variance


def discount_power(discount: float, trials: int) -> float:
    """Return `discount ** trials` by multiplication, since pow differs between C libraries."""
    if discount == 1.0 or trials == 0:
        return 1.0
    size = 64
    while size <= trials:
        size *= 2
    return float(_powers(discount, size)[trials])


@lru_cache(maxsize=64)
def _powers(discount: float, size: int) -> FloatArray:
    powers = np.full(size, discount)
    powers[0] = 1.0
    return np.multiply.accumulate(powers)


def _moments(rewards: Sequence[float]) -> tuple[float, float, float]:
    if not rewards:
        return 0.0, 0.0, 0.0
    mean = math.fsum(rewards) / len(rewards)
    return float(len(rewards)), mean, math.fsum((r - mean) ** 2 for r in rewards) / len(rewards)
