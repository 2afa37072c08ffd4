"""A linear model of rewards, learnt one trial at a time."""

import math
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from esper.bandit.priors import NEUTRAL

Rows = list[list[float]]


class LinearModel(BaseModel):
    """Bayesian linear regression of reward - 0.5 on features, as sums over trials.

    `precision` holds the rows of the lower triangle of Σ share · x xᵀ, `response` is
    Σ share · (reward - 0.5) · x. Both are empty before the first trial.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: tuple[tuple[float, ...], ...] = ()
    response: tuple[float, ...] = ()

    def after(self, features: Iterable[float], reward: float, earlier: int = 0) -> "LinearModel":
        """Return the model with one more trial, of an arm that had `earlier` trials before.

        The trial counts 1 / (1 + earlier): what an arm is beyond its features returns with each of
        its trials, so that many trials of one arm say less of the features than one trial each of
        many, and the arm that is tried most would otherwise be what all others are expected to be.

        Raises:
            ValueError: there are more or fewer features than before.
        """
        x = [float(value) for value in features]
        if self.response and len(x) != len(self.response):
            raise ValueError(f"{len(x)} features, and the model has {len(self.response)}")
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
        """Return a draw (d,) of the weights of the features, made of standard normal numbers (d,).

        Rewards are believed to lie `sigma` around the model, weights `prior_sigma` around 0 before
        any trial: the weights are normal with mean B⁻¹ · response and covariance sigma² B⁻¹, where
        B = (sigma / prior_sigma)² I + precision.
        """
        ridge = (sigma / prior_sigma) * (sigma / prior_sigma)
        if not self.response:
            return [prior_sigma * normal for normal in normals]
        factor = _cholesky(self.precision, ridge)
        halfway = _forward(factor, self.response)
        return _backward(
            factor, [mean + sigma * each for mean, each in zip(halfway, normals, strict=True)]
        )


def _cholesky(lower: Sequence[Sequence[float]], ridge: float) -> Rows:
    """Return L, lower triangular, with L Lᵀ the symmetric matrix plus `ridge` on its diagonal."""
    factor: Rows = []
    for index, row in enumerate(lower):
        found: list[float] = []
        for column in range(index):
            known = factor[column]
            found.append((row[column] - _dot(found, known)) / known[column])
        # Rounding may take what is left of a feature that others explain below what was added.
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
    """Return the sum of products over as many as the shorter has, from the first to the last."""
    total = 0.0
    for a, b in zip(left, right, strict=False):
        total += a * b
    return total
