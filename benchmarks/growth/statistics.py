"""Statistics of paired runs: seeds are the pairs. Pure, and from a fixed seed of chance."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
CHANCE: Final = 20_261_125
COVERED: Final = 0.95
EXACT_UP_TO: Final = 12
"""Pairs up to which every pattern of signs is looked at: 4,096 of them."""


class Difference(NamedTuple):
    """A mean of paired differences with its 95 % interval, the p-value of none, and the pairs."""

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return how much ours is more than theirs, pair by pair.

    Raises:
        ValueError: there are no pairs, or a value without its other.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    differences = np.subtract(ours, theirs)
    low, high = interval(differences)
    return Difference(
        float(differences.mean()), low, high, sign_flip_p(differences), len(differences)
    )


def interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    sample = np.asarray(values, dtype=float)
    random = np.random.default_rng(CHANCE)
    picks = random.integers(len(sample), size=(RESAMPLES, len(sample)))
    tails = (1 - COVERED) / 2
    low, high = np.quantile(sample[picks].mean(axis=1), (tails, 1 - tails))
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a mean difference of zero, by flipping signs of pairs.

    Where there is no difference a pair is as likely the other way round: Fisher, The Design of
    Experiments (1935), section 21. Drawn patterns count themselves in: Phipson and Smyth,
    Permutation P-values Should Never Be Zero (2010), equation 2.
    """
    sample = np.asarray(differences, dtype=float)
    observed = abs(sample.sum())
    # Sums in another order differ in their last digits.
    reached = observed - 1e-9 * max(1.0, observed)
    if len(sample) <= EXACT_UP_TO:
        patterns = np.arange(2 ** len(sample))[:, None] >> np.arange(len(sample)) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sample) >= reached))
    random = np.random.default_rng(CHANCE)
    signs = random.choice((-1.0, 1.0), size=(RESAMPLES, len(sample)))
    return float((1 + np.sum(np.abs(signs @ sample) >= reached)) / (1 + RESAMPLES))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that hold for all claims together.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979): the smallest of m counts
    m times, the next m - 1 times, and none less than one before it.
    """
    adjusted = {}
    least = 0.0
    order = sorted(p_values.items(), key=lambda each: each[1])
    for rank, (name, p) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
