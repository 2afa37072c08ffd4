"""The statistics of n arms, updated trial by trial."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from esper.bandit.arm_arrays import LEAST_WEIGHT, ArmArrays, FloatArray, PolicyContext
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.history import ArmHistory
from esper.bandit.linear import LinearModel
from esper.bandit.priors import NO_PRIOR, Prior


@dataclass(frozen=True, slots=True, eq=False)
class ArmStats:
    """The priors of n arms and the histories of tried arms, by index; `pulls` is their total.

    `lifetime` holds the arrays for a policy without discounting. Updating one arm copies the arrays
    and computes only its entry.
    """

    priors: Mapping[int, Prior]
    histories: Mapping[int, ArmHistory]
    lifetime: ArmArrays
    pulls: int

    @classmethod
    def of(
        cls, count: int, histories: Mapping[int, ArmHistory], priors: Mapping[int, Prior]
    ) -> "ArmStats":
        """Return the statistics of `count` arms."""
        columns = _arrays_of(range(count), priors, histories, NO_DISCOUNT, 0)
        pulls = sum(history.pulls for history in histories.values())
        return cls(priors, histories, columns, pulls)

    def with_history(self, index: int, history: ArmHistory) -> "ArmStats":
        """Return the statistics with another history of the arm at `index`."""
        before = self.lifetime
        weight, mean, variance = before.weight.copy(), before.mean.copy(), before.variance.copy()
        prior = self.priors.get(index, NO_PRIOR)
        weight[index], mean[index], variance[index] = _with_prior(history, prior, NO_DISCOUNT, 0)
        known = self.histories.get(index)
        pulls = self.pulls + history.pulls - (known.pulls if known else 0)
        columns = _arrays(weight, mean, variance)
        return ArmStats(self.priors, {**self.histories, index: history}, columns, pulls)

    def for_policy(
        self,
        discounting: Discounting,
        trials: int,
        where: slice | None = None,
        features: FloatArray | None = None,
        model: LinearModel | None = None,
    ) -> tuple[PolicyContext, ArmArrays]:
        """Return a policy's input: all arms, or the range `where`, after `trials` trials.

        The total counts the trials of the returned arms, without their priors.
        """
        context = PolicyContext(self._total(discounting, trials, where), model)
        if discounting is not NO_DISCOUNT and discounting != NO_DISCOUNT:
            indexes = range(len(self.lifetime)) if where is None else range(where.start, where.stop)
            columns = _arrays_of(indexes, self.priors, self.histories, discounting, trials)
        elif where is None:
            columns = self.lifetime
        else:
            whole = self.lifetime
            columns = ArmArrays(
                whole.weight[where],
                whole.mean[where],
                whole.variance[where],
                all_weigh=whole.all_weigh,
            )
        if features is None:
            return context, columns
        rows = features if where is None else features[where]
        return context, replace(columns, features=rows)

    def _total(self, discounting: Discounting, trials: int, where: slice | None) -> float:
        if where is None and (discounting is NO_DISCOUNT or discounting == NO_DISCOUNT):
            return float(self.pulls)
        tried = (
            self.histories.values()
            if where is None
            else [
                history
                for index in range(where.start, where.stop)
                if (history := self.histories.get(index)) is not None
            ]
        )
        return math.fsum(history.moments(discounting, trials)[0] for history in tried)


def _arrays_of(
    indexes: range,
    priors: Mapping[int, Prior],
    histories: Mapping[int, ArmHistory],
    discounting: Discounting,
    trials: int,
) -> ArmArrays:
    weight, mean, variance = (np.zeros(len(indexes)) for _ in range(3))
    for row, index in enumerate(indexes):
        history, prior = histories.get(index), priors.get(index, NO_PRIOR)
        if history is not None:
            moments = _with_prior(history, prior, discounting, trials)
            weight[row], mean[row], variance[row] = moments
        elif prior is not NO_PRIOR:
            weight[row], mean[row] = prior.weight, prior.mean
    return _arrays(weight, mean, variance)


def _arrays(weight: FloatArray, mean: FloatArray, variance: FloatArray) -> ArmArrays:
    all_weigh = np.count_nonzero(weight > LEAST_WEIGHT) == len(weight)
    return ArmArrays(weight, mean, variance, all_weigh=bool(all_weigh))


def _with_prior(
    history: ArmHistory, prior: Prior, discounting: Discounting, trials: int
) -> tuple[float, float, float]:
    """Return weight, mean and variance of a history combined with a prior."""
    weight, mean, variance = history.moments(discounting, trials)
    total = weight + prior.weight
    # A share of 0 leaves the bits of the mean unchanged.
    share = prior.weight / total if total else 0.0
    return total, mean + (prior.mean - mean) * share, variance
