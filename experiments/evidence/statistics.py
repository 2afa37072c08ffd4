"""Statistics of paired runs; equal seeds are pairs. Pure; resampling has a fixed seed."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 10_000
RESAMPLING_SEED: Final = 20_261_125
CONFIDENCE: Final = 0.95
EXACT_UP_TO: Final = 12
"""Pairs up to which all sign patterns are enumerated: 4,096 patterns."""


class Difference(NamedTuple):
    """Mean of paired differences, its 95 % interval, p-value of mean 0, and number of pairs."""

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the difference ours - theirs over pairs.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}")
    differences = np.subtract(ours, theirs)
    low, high = interval(differences)
    return Difference(
        float(differences.mean()), low, high, sign_flip_p(differences), len(differences)
    )


def interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    sample = np.asarray(values, dtype=float)
    random = np.random.default_rng(RESAMPLING_SEED)
    picks = random.integers(len(sample), size=(RESAMPLES, len(sample)))
    tails = (1 - CONFIDENCE) / 2
    low, high = np.quantile(sample[picks].mean(axis=1), (tails, 1 - tails))
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a mean difference of zero, by flipping signs of pairs.

    Under the null hypothesis each sign is as likely as its opposite: Fisher, The Design of
    Experiments (1935), section 21. Sampled patterns include the observed one: Phipson and Smyth,
    Permutation P-values Should Never Be Zero (2010), equation 2.
    """
    sample = np.asarray(differences, dtype=float)
    observed = abs(sample.sum())
    # Sums in another order differ in the last digits.
    reached = observed - 1e-9 * max(1.0, observed)
    if len(sample) <= EXACT_UP_TO:
        patterns = np.arange(2 ** len(sample))[:, None] >> np.arange(len(sample)) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ sample) >= reached))
    random = np.random.default_rng(RESAMPLING_SEED)
    signs = random.choice((-1.0, 1.0), size=(RESAMPLES, len(sample)))
    return float((1 + np.sum(np.abs(signs @ sample) >= reached)) / (1 + RESAMPLES))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for multiple claims.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979): the smallest of m
    p-values is multiplied by m, the next by m - 1, and so on, kept in ascending order.
    """
    adjusted = {}
    lowest = 0.0
    order = sorted(p_values.items(), key=lambda item: item[1])
    for rank, (name, p) in enumerate(order):
        lowest = max(lowest, min(1.0, (len(order) - rank) * p))
        adjusted[name] = lowest
    return {name: adjusted[name] for name in p_values}
