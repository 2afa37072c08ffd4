"""Policies with upper confidence bounds."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.policies.ranges import require, require_window

LOG_DIGITS = 12
MAX_EXPLORATION = 1e6
LEAST_DISCOUNT = 0.5


@dataclass(frozen=True, slots=True)
class UCB1:
    """UCB1: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem"
    (Machine Learning 47, 2002), figure 1: mean + sqrt(exploration * ln(t) / trials).

    Rewards must be in [0, 1]. Every arm without a prior is tried once before any is tried twice.
    The default `exploration` of 2 is the paper's.
    """

    exploration: float = 2.0

    name: ClassVar[str] = "ucb1"
    source: ClassVar[str] = "Auer, Cesa-Bianchi, Fischer 2002"
    use_when: ClassVar[str] = "every arm must be tried once"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("exploration", self.exploration, 0.0, MAX_EXPLORATION)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the upper confidence bound of each arm."""
        return _bounds(self.exploration, context, arms)


@dataclass(frozen=True, slots=True)
class SlidingUCB:
    """SW-UCB: Garivier, Moulines, "On Upper-Confidence Bound Policies for Switching Bandit
    Problems" (ALT 2011): the bound of UCB1 over the last `window` trials.

    Rewards must be in [0, 1]. An arm without a trial in the window, and without a prior, comes
    first. `exploration` is the paper's B² ξ, whose proofs need ξ above 1/2. The default is 1/2, the
    exponent of Hoeffding's inequality, because every window is explored again.
    """

    exploration: float = 0.5
    window: float = 200

    name: ClassVar[str] = "sliding-ucb"
    source: ClassVar[str] = "Garivier, Moulines 2011"
    use_when: ClassVar[str] = "the best arm changes abruptly"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("exploration", self.exploration, 0.0, MAX_EXPLORATION)
        require_window(self.window)

    @property
    def discounting(self) -> Discounting:
        """The window of the policy."""
        return Discounting(window=int(self.window))

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the upper confidence bound of each arm over the window."""
        return _bounds(self.exploration, context, arms)


@dataclass(frozen=True, slots=True)
class DiscountedUCB:
    """D-UCB: Garivier, Moulines, "On Upper-Confidence Bound Policies for Switching Bandit
    Problems" (ALT 2011): the bound of UCB1 with the weight of earlier trials multiplied
    by `discount` at every trial.

    Rewards must be in [0, 1]. `exploration` is the paper's 4 B² ξ. The default is 1/2 as for
    `SlidingUCB`: with four times that, and few trials in effect, the policy would mostly explore.
    """

    exploration: float = 0.5
    discount: float = 0.995

    name: ClassVar[str] = "discounted-ucb"
    source: ClassVar[str] = "Garivier, Moulines 2011"
    use_when: ClassVar[str] = "the best arm changes gradually"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("exploration", self.exploration, 0.0, MAX_EXPLORATION)
        require("discount", self.discount, LEAST_DISCOUNT, 1.0)

    @property
    def discounting(self) -> Discounting:
        """The discount of the policy."""
        return Discounting(discount=self.discount)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the upper confidence bound of each arm over discounted trials."""
        return _bounds(self.exploration, context, arms)


def _bounds(exploration: float, context: PolicyContext, arms: ArmArrays) -> FloatArray:
    spread = exploration * log_of(context.total)
    if arms.all_weigh:
        # In place, because allocating per operation would double the time.
        bound = spread / arms.weight
        np.sqrt(bound, out=bound)
        bound += arms.mean
        return bound
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bound = arms.mean + np.sqrt(spread / arms.weight)
    return np.where(arms.weight > 0.0, bound, np.inf)


def log_of(total: float) -> float:
    """Return ln(total), rounded to be the same on every machine; 0 for a total below 1."""
    # The last bits of log differ between C libraries, and the audit compares bytes.
    return round(math.log(max(total, 1.0)), LOG_DIGITS)
