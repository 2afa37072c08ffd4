"""Where n arms stand: the columns that policies score, kept up trial by trial."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from esper.bandit.columns import ArmColumns, Experience, FloatArray
from esper.bandit.forgetting import NOTHING, Forgetting
from esper.bandit.history import History
from esper.bandit.linear import LinearModel
from esper.bandit.priors import NO_PRIOR, Prior


@dataclass(frozen=True, slots=True, eq=False)
class Standings:
    """n arms with their priors, and the histories of those that were tried, by place.

    `lifetime` is their columns for a policy that forgets nothing; a change of one arm copies them,
    which is cheap, and computes that one.
    """

    priors: Mapping[int, Prior]
    histories: Mapping[int, History]
    lifetime: ArmColumns
    pulls: int

    @classmethod
    def of(
        cls, count: int, histories: Mapping[int, History], priors: Mapping[int, Prior]
    ) -> "Standings":
        """Return the standings of `count` arms."""
        columns = _columns(count, priors, histories, NOTHING, 0)
        pulls = sum(history.pulls for history in histories.values())
        return cls(priors, histories, columns, pulls)

    def with_history(self, place: int, history: History) -> "Standings":
        """Return the standings with another history of one arm."""
        columns = self.lifetime
        changed = ArmColumns(columns.weight.copy(), columns.mean.copy(), columns.variance.copy())
        _put(changed, place, history, self.priors.get(place, NO_PRIOR), NOTHING, 0)
        known = self.histories.get(place)
        pulls = self.pulls + history.pulls - (known.pulls if known else 0)
        return Standings(self.priors, {**self.histories, place: history}, changed, pulls)

    def seen_by(
        self,
        forgetting: Forgetting,
        trials: int,
        where: slice | None = None,
        features: FloatArray | None = None,
        model: LinearModel | None = None,
    ) -> tuple[Experience, ArmColumns]:
        """Return what a policy knows of all arms, or of a range of them, after `trials` trials.

        The total is that of the arms returned, and counts trials, not what priors are worth.
        """
        if forgetting == NOTHING:
            columns = self.lifetime
        else:
            columns = _columns(len(self.lifetime), self.priors, self.histories, forgetting, trials)
        experience = Experience(self._total(forgetting, trials, where), model)
        place = slice(None) if where is None else where
        if where is None and features is None:
            return experience, columns
        return experience, ArmColumns(
            columns.weight[place],
            columns.mean[place],
            columns.variance[place],
            None if features is None else features[place],
        )

    def _total(self, forgetting: Forgetting, trials: int, where: slice | None) -> float:
        if where is None and forgetting == NOTHING:
            return float(self.pulls)
        tried = (
            self.histories.values()
            if where is None
            else [
                history
                for place in range(where.start, where.stop)
                if (history := self.histories.get(place)) is not None
            ]
        )
        return math.fsum(history.remembered(forgetting, trials)[0] for history in tried)


def _columns(
    count: int,
    priors: Mapping[int, Prior],
    histories: Mapping[int, History],
    forgetting: Forgetting,
    trials: int,
) -> ArmColumns:
    columns = ArmColumns(np.zeros(count), np.zeros(count), np.zeros(count))
    for place, prior in priors.items():
        columns.weight[place], columns.mean[place] = prior.weight, prior.mean
    for place, history in histories.items():
        _put(columns, place, history, priors.get(place, NO_PRIOR), forgetting, trials)
    return columns


def _put(
    columns: ArmColumns,
    place: int,
    history: History,
    prior: Prior,
    forgetting: Forgetting,
    trials: int,
) -> None:
    weight, mean, variance = history.remembered(forgetting, trials)
    together = weight + prior.weight
    columns.weight[place] = together
    # A share of nothing must leave the very bits of the mean.
    share = prior.weight / together if together else 0.0
    columns.mean[place] = mean + (prior.mean - mean) * share
    columns.variance[place] = variance
