"""Linear Thompson sampling, which predicts untried arms from their features."""

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
"""The part of the random numbers for the feature weights."""


@dataclass(frozen=True, slots=True)
class LinearThompson:
    """Linear Thompson sampling: Agrawal, Goyal, "Thompson Sampling for Contextual Bandits with
    Linear Payoffs" (ICML 2013), algorithm 1, with a per-arm effect learnt from the arm's own
    trials: Aouali, Kveton, Katariya, "Mixed-Effect Thompson Sampling" (AISTATS 2023).

    The feature weights are drawn once for all arms and give each arm's prior mean, with standard
    deviation `arm_sigma`; an arm without trials is judged by its features alone. `sigma` is the
    standard deviation of rewards around an arm's mean (the paper's v), `weight_sigma` the prior one
    of the weights.
    """

    sigma: float = 0.5
    arm_sigma: float = 0.1
    weight_sigma: float = 0.2

    name: ClassVar[str] = "linear-thompson"
    source: ClassVar[str] = "Agrawal, Goyal 2013; Aouali et al. 2023"
    use_when: ClassVar[str] = "there are more arms than trials"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = True
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("sigma", self.sigma, LEAST_SIGMA, MAX_SIGMA)
        require("arm_sigma", self.arm_sigma, LEAST_SIGMA, MAX_SIGMA)
        require("weight_sigma", self.weight_sigma, LEAST_SIGMA, MAX_SIGMA)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return a draw from each arm's posterior.

        Raises:
            ValueError: the arms have no features.
        """
        if arms.features is None:
            raise ValueError("linear-thompson needs arms with features; these have no features")
        model = context.model or LinearModel()
        count, width = arms.features.shape
        normals = rng.normals(width, WEIGHTS).tolist()
        weights = model.weights(normals, self.sigma, self.weight_sigma)
        prior = np.full(count, NEUTRAL)
        for index, weight in enumerate(weights):
            prior += arms.features[:, index] * weight
        return gaussian_draws(arms, rng.normals(count), prior, self.sigma, self.arm_sigma)
