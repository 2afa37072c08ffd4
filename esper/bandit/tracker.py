"""How everything that was tried has done: by seed and blueprint, by blueprint, by seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict

from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.history import ArmHistory, TrialResult

MAX_DETAILED = 4096
"""Of more histories by seed and blueprint, those tried least lately are let go."""


class HistoryKey(NamedTuple):
    """What a history is of: a blueprint in a seed, or in any seed of the site (`slot` None), or a
    seed whatever was planted there (`blueprint_id` None)."""

    site: str
    slot: int | None = None
    blueprint_id: str | None = None


class HistoryRow(BaseModel):
    """One history as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    slot: int | None = None
    blueprint_id: str | None = None
    history: ArmHistory


@dataclass(frozen=True)
class PerformanceTracker:
    """The histories of a run, after `trials` trials; a value.

    What it is told are rewards of paired differences: each trial's loss with and without the seed,
    same weights, same batch. `marginal` has one history for each blueprint at a site and for each
    seed, on which policies decide; `detailed` one for each blueprint in a seed. A blueprint's
    history forgets as the policy for blueprints does, a seed's as the one for attention.
    """

    trials: int = 0
    marginal: Mapping[HistoryKey, ArmHistory] = field(default_factory=dict)
    detailed: Mapping[HistoryKey, ArmHistory] = field(default_factory=dict)
    discounting: Discounting = NO_DISCOUNT
    attention_discounting: Discounting = NO_DISCOUNT

    def of(self, tried: HistoryKey) -> ArmHistory | None:
        """Return the history of what was tried; None where it never was, or was let go."""
        return self.marginal.get(tried) or self.detailed.get(tried)

    def after(
        self, site: str, slot: int, blueprint_id: str, trial: TrialResult
    ) -> "PerformanceTracker":
        """Return the tracker with one more trial, of a blueprint in a seed."""
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
        # Last is what was tried last, so that the first is what may go.
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
        """Return the tracker without what is known of a blueprint at a site: it is another now."""

        def kept(histories: Mapping[HistoryKey, ArmHistory]) -> dict[HistoryKey, ArmHistory]:
            return {
                tried: history
                for tried, history in histories.items()
                if (tried.site, tried.blueprint_id) != (site, blueprint_id)
            }

        return replace(self, marginal=kept(self.marginal), detailed=kept(self.detailed))

    @cached_property
    def json(self) -> bytes:
        """The tracker as it is stored, in an order that `with_rows` keeps."""
        rows = [_encoded(*each) for each in (*self.marginal.items(), *self.detailed.items())]
        return b'{"rows":[%b],"trials":%d}' % (b",".join(rows), self.trials)

    def with_rows(self, trials: int, rows: Iterable[HistoryRow]) -> "PerformanceTracker":
        """Return the tracker with the histories that were stored, after `trials` trials."""
        marginal: dict[HistoryKey, ArmHistory] = {}
        detailed: dict[HistoryKey, ArmHistory] = {}
        for row in rows:
            tried = HistoryKey(row.site, row.slot, row.blueprint_id)
            both = tried.slot is not None and tried.blueprint_id is not None
            (detailed if both else marginal)[tried] = row.history
        return replace(self, trials=trials, marginal=marginal, detailed=detailed)


def _encoded(tried: HistoryKey, history: ArmHistory) -> bytes:
    row = HistoryRow(
        site=tried.site, slot=tried.slot, blueprint_id=tried.blueprint_id, history=history
    )
    return orjson.dumps(row.model_dump(exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
