"""The histories of all trials: by slot and blueprint, by blueprint, by slot."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict

from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.history import ArmHistory, TrialResult

MAX_DETAILED = 4096
"""Beyond this number of histories by slot and blueprint, the least recently tried are dropped."""


class HistoryKey(NamedTuple):
    """The key of a history: a blueprint in a slot, a blueprint in any slot of a site (`slot` None),
    or a slot with any blueprint (`blueprint_id` None)."""

    site: str
    slot: int | None = None
    blueprint_id: str | None = None


class HistoryRow(BaseModel):
    """The stored form of one history."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    slot: int | None = None
    blueprint_id: str | None = None
    history: ArmHistory


@dataclass(frozen=True)
class PerformanceTracker:
    """The histories of a run after `trials` trials; immutable.

    Rewards come from paired differences: a trial's loss with and without the seed, same weights,
    same batch. `marginal` has one history per (site, blueprint) and one per slot, which policies
    use; `detailed` one per blueprint in a slot. Blueprint histories use the discounting of the
    policy, slot histories that of the slot policy.
    """

    trials: int = 0
    marginal: Mapping[HistoryKey, ArmHistory] = field(default_factory=dict)
    detailed: Mapping[HistoryKey, ArmHistory] = field(default_factory=dict)
    discounting: Discounting = NO_DISCOUNT
    attention_discounting: Discounting = NO_DISCOUNT

    def of(self, key: HistoryKey) -> ArmHistory | None:
        """Return the history of a key; None where nothing was tried or the history was dropped."""
        return self.marginal.get(key) or self.detailed.get(key)

    def after(
        self, site: str, slot: int, blueprint_id: str, trial: TrialResult
    ) -> "PerformanceTracker":
        """Return the tracker with one more trial, of a blueprint in a slot."""
        number = self.trials + 1
        both, arm, seed = (
            HistoryKey(site, slot, blueprint_id),
            HistoryKey(site, None, blueprint_id),
            HistoryKey(site, slot),
        )
        detailed = dict(self.detailed)
        before = detailed.pop(both, ArmHistory())
        if len(detailed) >= MAX_DETAILED:
            del detailed[next(iter(detailed))]
        # The dict is ordered by last trial, so the first entry is dropped.
        detailed[both] = before.after(trial, number, self.discounting)
        marginal = {
            **self.marginal,
            arm: self.marginal.get(arm, ArmHistory()).after(trial, number, self.discounting),
            seed: self.marginal.get(seed, ArmHistory()).after(
                trial, number, self.attention_discounting
            ),
        }
        return replace(self, trials=number, marginal=marginal, detailed=detailed)

    def without(self, site: str, blueprint_id: str) -> "PerformanceTracker":
        """Return the tracker without a blueprint at a site, whose kernel was replaced."""

        def kept(histories: Mapping[HistoryKey, ArmHistory]) -> dict[HistoryKey, ArmHistory]:
            return {
                key: history
                for key, history in histories.items()
                if (key.site, key.blueprint_id) != (site, blueprint_id)
            }

        return replace(self, marginal=kept(self.marginal), detailed=kept(self.detailed))

    @cached_property
    def json(self) -> bytes:
        """The stored bytes of the tracker, in an order that `with_rows` keeps."""
        rows = [_encoded(*item) for item in (*self.marginal.items(), *self.detailed.items())]
        return b'{"rows":[%b],"trials":%d}' % (b",".join(rows), self.trials)

    def with_rows(self, trials: int, rows: Iterable[HistoryRow]) -> "PerformanceTracker":
        """Return the tracker with stored histories, after `trials` trials."""
        marginal: dict[HistoryKey, ArmHistory] = {}
        detailed: dict[HistoryKey, ArmHistory] = {}
        for row in rows:
            key = HistoryKey(row.site, row.slot, row.blueprint_id)
            both = key.slot is not None and key.blueprint_id is not None
            (detailed if both else marginal)[key] = row.history
        return replace(self, trials=trials, marginal=marginal, detailed=detailed)


def _encoded(key: HistoryKey, history: ArmHistory) -> bytes:
    row = HistoryRow(site=key.site, slot=key.slot, blueprint_id=key.blueprint_id, history=history)
    return orjson.dumps(row.model_dump(exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
