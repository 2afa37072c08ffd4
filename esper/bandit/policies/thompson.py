"""Thompson sampling: score each arm by a draw from its posterior."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.policies.ranges import require, require_window
from esper.bandit.policies.ucb import LEAST_DISCOUNT
from esper.bandit.priors import NEUTRAL

LEAST_SIGMA: Final = 1e-3
MAX_SIGMA: Final = 10.0


@dataclass(frozen=True, slots=True)
class ThompsonBeta:
    """Thompson sampling with beta posteriors: Chapelle, Li, "An Empirical Evaluation of Thompson
    Sampling" (NIPS 2011), algorithm 2, from the prior Beta(1, 1).

    A reward r in [0, 1] counts as r successes and 1 - r failures. Agrawal and Goyal, "Analysis of
    Thompson Sampling for the Multi-armed Bandit Problem" (COLT 2012), algorithm 2, draw a Bernoulli
    result with probability r instead, which has the same mean and more noise. An arm without trials
    draws from its prior.
    """

    name: ClassVar[str] = "thompson-beta"
    source: ClassVar[str] = "Thompson 1933; Agrawal, Goyal 2012"
    use_when: ClassVar[str] = "nothing is known about the rewards"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return a draw from each arm's posterior."""
        return _beta_draws(arms, rng)


@dataclass(frozen=True, slots=True)
class SlidingThompson:
    """Sliding-window Thompson sampling: Trovò, Paladino, Restelli, Gatti, "Sliding-Window Thompson
    Sampling for Non-Stationary Settings" (JAIR 68, 2020): `ThompsonBeta` over the last `window`
    trials.
    """

    window: float = 200

    name: ClassVar[str] = "sliding-thompson"
    source: ClassVar[str] = "Trovò et al. 2020"
    use_when: ClassVar[str] = "the best arm changes abruptly"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_window(self.window)

    @property
    def discounting(self) -> Discounting:
        """The window of the policy."""
        return Discounting(window=int(self.window))

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return a draw from each arm's posterior over the window."""
        return _beta_draws(arms, rng)


@dataclass(frozen=True, slots=True)
class DiscountedThompson:
    """Discounted Thompson sampling: Raj, Kalyani, "Taming Non-stationary Bandits: A Bayesian
    Approach" (2017), algorithm 1: `ThompsonBeta` with the weight of earlier trials multiplied by
    `discount` at every trial.
    """

    discount: float = 0.99

    name: ClassVar[str] = "discounted-thompson"
    source: ClassVar[str] = "Raj, Kalyani 2017"
    use_when: ClassVar[str] = "the best arm changes gradually"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require("discount", self.discount, LEAST_DISCOUNT, 1.0)

    @property
    def discounting(self) -> Discounting:
        """The discount of the policy."""
        return Discounting(discount=self.discount)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return a draw from each arm's posterior over discounted trials."""
        return _beta_draws(arms, rng)


@dataclass(frozen=True, slots=True)
class ThompsonGaussian:
    """Thompson sampling with Gaussian posteriors: Agrawal, Goyal, "Further Optimal Regret Bounds
    for Thompson Sampling" (AISTATS 2013), algorithm 2, with a given noise.

    `sigma` is the standard deviation of an arm's rewards, 1 in the paper; 1/2 is the maximum for
    rewards in [0, 1]. `prior_sigma` is the prior standard deviation of an arm's mean around 0.5,
    the reward of a kernel without effect.
    """

    sigma: float = 0.5
    prior_sigma: float = 0.5

    name: ClassVar[str] = "thompson-gaussian"
    source: ClassVar[str] = "Agrawal, Goyal 2013"
    use_when: ClassVar[str] = "the spread of rewards is known"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("sigma", self.sigma, LEAST_SIGMA, MAX_SIGMA)
        require("prior_sigma", self.prior_sigma, LEAST_SIGMA, MAX_SIGMA)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return a draw from each arm's posterior."""
        prior = np.full(len(arms), NEUTRAL)
        return gaussian_draws(arms, rng.normals(len(arms)), prior, self.sigma, self.prior_sigma)


def _beta_draws(arms: ArmArrays, rng: CounterRNG) -> FloatArray:
    successes = arms.weight * arms.mean
    failures = arms.weight * (1.0 - arms.mean)
    return rng.betas(1.0 + successes, 1.0 + failures)


def gaussian_draws(
    arms: ArmArrays, normals: FloatArray, prior: FloatArray, sigma: float, prior_sigma: float
) -> FloatArray:
    """Return a draw (n,) from each arm's posterior, from standard normal numbers (n,).

    The prior of the arms' means is normal with mean `prior` (n,) and deviation `prior_sigma`; an
    arm's rewards have deviation `sigma` around its mean.
    """
    prior_trials = (sigma / prior_sigma) * (sigma / prior_sigma)
    trials = arms.weight + prior_trials
    mean = prior + (arms.mean - prior) * (arms.weight / trials)
    return mean + normals * (sigma / np.sqrt(trials))
