"""Decaying ε-greedy."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.policies.ranges import require

MAX_C: Final = 1e6
LEAST_GAP: Final = 1e-3

COIN: Final = "coin"
"""The part of the random numbers that decides whether to explore."""


@dataclass(frozen=True, slots=True)
class EpsilonGreedy:
    """Decaying ε-greedy: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed
    Bandit Problem" (Machine Learning 47, 2002), figure 3: any arm with probability
    ε = min(1, c * arms / (gap² * t)) at trial t, else the one with the best mean.

    `gap` is the paper's d, a lower bound of the difference between the best arm and the next. The
    paper's experiments use `c` from 0.05 to 0.2. Arms without trials and prior come first.
    """

    c: float = 0.1
    gap: float = 0.1

    name: ClassVar[str] = "epsilon-greedy"
    source: ClassVar[str] = "Auer, Cesa-Bianchi, Fischer 2002"
    use_when: ClassVar[str] = "a simple baseline is wanted"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("c", self.c, 0.0, MAX_C)
        require("gap", self.gap, LEAST_GAP, 1.0)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the means (infinity for untried arms), or random numbers when exploring."""
        epsilon = self.c * len(arms) / (self.gap * self.gap * (context.total + 1.0))
        if rng.uniforms(1, COIN)[0] < epsilon:
            return rng.uniforms(len(arms))
        return np.where(arms.weight > 0.0, arms.mean, np.inf)
