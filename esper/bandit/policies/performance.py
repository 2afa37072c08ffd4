"""Softmax over mean rewards."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.policies.ranges import require
from esper.bandit.portable import log

LEAST_TEMPERATURE: Final = 1e-3
MAX_TEMPERATURE: Final = 1e3


@dataclass(frozen=True, slots=True)
class Performance:
    """Softmax over mean rewards: Sutton, Barto, "Reinforcement Learning" (1998), section 2.3:
    an arm with probability proportional to exp(mean / temperature).

    The draw is the maximum of mean / temperature plus Gumbel noise: Yellott, "The Relationship
    Between Luce's Choice Axiom, Thurstone's Theory of Comparative Judgment, and the Double
    Exponential Distribution" (Journal of Mathematical Psychology 15, 1977). An arm without trials
    and prior comes first.
    """

    temperature: float = 0.05

    name: ClassVar[str] = "performance"
    source: ClassVar[str] = "Sutton, Barto 1998; Yellott 1977"
    use_when: ClassVar[str] = "selection in proportion to value"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("temperature", self.temperature, LEAST_TEMPERATURE, MAX_TEMPERATURE)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the perturbed means, in units of the temperature."""
        gumbels = -log(-log(rng.positive_uniforms(len(arms))))
        return np.where(arms.weight > 0.0, arms.mean / self.temperature + gumbels, np.inf)
