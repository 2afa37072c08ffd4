"""Scores: by how much a kernel lowers the held-out loss, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """A gain: mean fall of the held-out loss per sample, and its standard error.

    `slope` is the gain per step over the last half of the steps.
    """

    gain: float
    error: float
    slope: float
    steps: int


def gain_of(without: Tensor, with_kernel: Tensor) -> tuple[float, float]:
    """Return the mean of the paired differences of losses (N,), and its standard error."""
    difference = without - with_kernel
    return float(difference.mean()), float(difference.std()) / sqrt(len(difference))


def slope_of(gains: Sequence[tuple[int, float]]) -> float:
    """Return the gain per step between the last (step, gain) and the last of half its steps."""
    last_step, last = gains[-1]
    step, gain = max(pair for pair in gains if 2 * pair[0] <= last_step)
    return (last - gain) / max(1, last_step - step)
