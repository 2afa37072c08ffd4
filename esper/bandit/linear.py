"""A linear model of rewards, updated one trial at a time."""

import math
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from esper.bandit.priors import NEUTRAL

Rows = list[list[float]]


class LinearModel(BaseModel):
    """Bayesian linear regression of (reward - 0.5) on features, as sums over trials.

    Agrawal, Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs" (ICML 2013),
    section 2.2, with a stated prior variance and a weight per trial.

    `precision` holds the rows of the lower triangle of Σ share · x xᵀ, `response` is
    Σ share · (reward - 0.5) · x. Both are empty before the first trial.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: tuple[tuple[float, ...], ...] = ()
    response: tuple[float, ...] = ()

    def after(self, features: Iterable[float], reward: float, earlier: int = 0) -> "LinearModel":
        """Return the model with one more trial, of an arm with `earlier` trials before.

        The trial weighs 1 / (1 + earlier). An arm's deviation from its features repeats in each of
        its trials: repeated trials of one arm say less about the features than trials of many arms;
        with equal weights the most tried arm would dominate the prediction for all others.

        Raises:
            ValueError: the number of features differs from the earlier trials'.
        """
        x = [float(value) for value in features]
        if self.response and len(x) != len(self.response):
            raise ValueError(f"got {len(x)} features; the model has {len(self.response)}")
        share = 1.0 / (1.0 + earlier)
        precision = self.precision or tuple((0.0,) * (row + 1) for row in range(len(x)))
        response = self.response or (0.0,) * len(x)
        above = share * (reward - NEUTRAL)
        return LinearModel(
            precision=tuple(
                tuple([old + (share * left) * right for old, right in zip(row, x, strict=False)])
                for row, left in zip(precision, x, strict=True)
            ),
            response=tuple([old + above * value for old, value in zip(response, x, strict=True)]),
        )

    def weights(self, normals: Sequence[float], sigma: float, prior_sigma: float) -> list[float]:
        """Return a posterior draw (d,) of the feature weights from standard normal numbers (d,).

        `sigma` is the standard deviation of rewards around the model, `prior_sigma` of the weights
        around 0. The posterior is normal with mean B⁻¹ · response and covariance sigma² B⁻¹, where
        B = (sigma / prior_sigma)² I + precision (Agrawal, Goyal, ICML 2013, section 2.2).
        """
        ridge = (sigma / prior_sigma) * (sigma / prior_sigma)
        if not self.response:
            return [prior_sigma * normal for normal in normals]
        factor = _cholesky(self.precision, ridge)
        halfway = _forward(factor, self.response)
        return _backward(
            factor, [mean + sigma * normal for mean, normal in zip(halfway, normals, strict=True)]
        )


def _cholesky(lower: Sequence[Sequence[float]], ridge: float) -> Rows:
    """Return L, lower triangular, with L Lᵀ the symmetric matrix plus `ridge` on its diagonal."""
    factor: Rows = []
    for index, row in enumerate(lower):
        found: list[float] = []
        for column in range(index):
            known = factor[column]
            found.append((row[column] - _dot(found, known)) / known[column])
        # Rounding may push the pivot of a redundant feature below the ridge.
        left = max(row[index] + ridge - _dot(found, found), ridge)
        found.append(math.sqrt(left))
        factor.append(found)
    return factor


def _forward(factor: Rows, right: Sequence[float]) -> list[float]:
    """Return x with L x = right."""
    found: list[float] = []
    for row, value in zip(factor, right, strict=True):
        found.append((value - _dot(found, row)) / row[len(found)])
    return found


def _backward(factor: Rows, right: Sequence[float]) -> list[float]:
    """Return x with Lᵀ x = right."""
    found = list(right)
    for index in reversed(range(len(factor))):
        row = factor[index]
        found[index] /= row[index]
        for column in range(index):
            found[column] -= row[column] * found[index]
    return found


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the sum of products in order, over the length of the shorter sequence."""
    total = 0.0
    for a, b in zip(left, right, strict=False):
        total += a * b
    return total
