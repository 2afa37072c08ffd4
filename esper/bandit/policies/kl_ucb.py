"""KL-UCB: upper confidence bounds from the Bernoulli divergence."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.policies.ranges import require
from esper.bandit.policies.ucb import log_of
from esper.bandit.portable import exp, log

MAX_C: Final = 1e3
STEPS: Final = 3
"""Steps of Halley's method: from its start, two steps have an error up to 1e-9, three up to 1e-13,
for divergences above 1e-6; below that, rounding dominates."""

_CERTAIN: Final = 750.0
"""A divergence at which every bound is 1."""

_TINY: Final = 2.0**-500
"""Replaces 0 as a divisor; its square is above 0 too."""

_BELOW_ONE: Final = 1.0 - 2.0**-53


@dataclass(frozen=True, slots=True)
class KLUCB:
    """KL-UCB: Garivier, Cappé, "The KL-UCB Algorithm for Bounded Stochastic Bandits and Beyond"
    (COLT 2011), algorithm 1: the greatest q with trials * kl(mean, q) <= ln(t) + c * ln(ln(t)),
    where kl is the divergence of Bernoulli distributions.

    Rewards must be in [0, 1]. Every arm without a prior is tried once before any is tried twice.
    The default `c` of 0 is the paper's recommendation for practice.
    """

    c: float = 0.0

    name: ClassVar[str] = "kl-ucb"
    source: ClassVar[str] = "Garivier, Cappé 2011"
    use_when: ClassVar[str] = "rewards are near 0 or 1, and runs are long"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def __post_init__(self) -> None:
        require("c", self.c, 0.0, MAX_C)

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the upper confidence bound of each arm, from its mean to 1."""
        log_total = log_of(context.total)
        allowed = log_total + self.c * log_of(log_total)
        scores = np.full(len(arms), np.inf)
        tried = np.nonzero(arms.weight > 0.0)[0]
        if len(tried):
            with np.errstate(over="ignore"):
                divergence = np.minimum(allowed / arms.weight[tried], _CERTAIN)
            scores[tried] = _greatest(arms.mean[tried], divergence)
        return scores


def _greatest(mean: FloatArray, divergence: FloatArray) -> FloatArray:
    """Return the greatest q in [mean, 1] with kl(mean, q) <= divergence.

    Halley's method, from a start above the root; the second derivative is as cheap as the first.
    """
    rest = 1.0 - mean
    entropy = mean * log(np.maximum(mean, _TINY)) + rest * log(np.maximum(rest, _TINY))
    least = np.minimum(np.maximum(mean, _TINY), _BELOW_ONE)
    q = np.maximum(_above(mean, rest, entropy, divergence), least)
    for _ in range(STEPS):
        left = 1.0 - q
        logs = log(np.concatenate((q, left)))
        beyond = entropy - mean * logs[: len(q)] - rest * logs[len(q) :] - divergence
        slope = (q - mean) / (q * left)
        square = slope * slope
        curve = mean / (q * q) + rest / (left * left)
        below = np.maximum(2.0 * square - beyond * curve, np.maximum(square, _TINY))
        q = np.minimum(np.maximum(q - 2.0 * beyond * slope / below, least), _BELOW_ONE)
    return np.maximum(q, mean)


def _above(
    mean: FloatArray, rest: FloatArray, entropy: FloatArray, divergence: FloatArray
) -> FloatArray:
    """Return an upper bound of the root that is below 1, as the start of Halley's method.

    kl(m, q) is the integral of (x - m) / (x (1 - x)) from m to q, so it is at least
    (q - m)² / 2v for any v that x (1 - x) stays below: 1/4, q, 1 - m, and from 1/2 on m (1 - m).
    And it is at least (1 - m) ln(1 / (1 - q)) less the entropy, which keeps q from 1.
    """
    greatest = np.minimum(0.25, np.minimum(rest, np.where(mean >= 0.5, mean * rest, 0.25)))
    near = np.minimum(
        np.sqrt(2.0 * divergence * greatest),
        divergence + np.sqrt(divergence * divergence + 2.0 * divergence * mean),
    )
    far = 1.0 - exp((entropy - divergence) / np.maximum(rest, _TINY))
    return np.minimum(np.minimum(mean + near, far), _BELOW_ONE)
