"""Thompson sampling that knows arms by their features, and can judge one never tried."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.linear import LinearModel
from esper.bandit.policies.ranges import require
from esper.bandit.policies.thompson import LEAST_SIGMA, MAX_SIGMA, gaussian_draws
from esper.bandit.priors import NEUTRAL

WEIGHTS = "weights"
"""The part of the random numbers that draws the weights of features."""


@dataclass(frozen=True, slots=True)
class LinearThompson:
    """Linear Thompson sampling: Agrawal, Goyal, "Thompson Sampling for Contextual Bandits with
    Linear Payoffs" (ICML 2013), algorithm 1, with what features do not say of an arm learnt from
    its own trials: Aouali, Kveton, Katariya, "Mixed-Effect Thompson Sampling" (AISTATS 2023).

    Weights of the features are drawn once for all arms. They give the mean that each arm is
    believed to have, `arm_sigma` more or less; an arm never tried is judged by its features alone.
    `sigma` is the standard deviation of rewards around an arm's mean, the paper's v, `weight_sigma`
    that of the weights before any trial.
    """

    sigma: float = 0.5
    arm_sigma: float = 0.1
    weight_sigma: float = 0.2

    name: ClassVar[str] = "linear-thompson"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = True
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("sigma", self.sigma, LEAST_SIGMA, MAX_SIGMA)
        require("arm_sigma", self.arm_sigma, LEAST_SIGMA, MAX_SIGMA)
        require("weight_sigma", self.weight_sigma, LEAST_SIGMA, MAX_SIGMA)

    def score(self, state: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return a draw from each arm's posterior.

        Raises:
            ValueError: the arms have no features.
        """
        if arms.features is None:
            raise ValueError("linear-thompson judges arms by features, and these have none")
        model = state.model or LinearModel()
        count, width = arms.features.shape
        normals = rng.normals(width, WEIGHTS).tolist()
        weights = model.weights(normals, self.sigma, self.weight_sigma)
        believed = np.full(count, NEUTRAL)
        for index, weight in enumerate(weights):
            believed += arms.features[:, index] * weight
        return gaussian_draws(arms, rng.normals(count), believed, self.sigma, self.arm_sigma)
