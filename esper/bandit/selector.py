"""Choose the slot and the blueprint to plant next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from esper.bandit.arm_arrays import FloatArray
from esper.bandit.arm_features import ArmFeatures, Codes
from esper.bandit.arm_stats import ArmStats
from esper.bandit.constraints import Constraint, Situation, constraint_codes
from esper.bandit.counter_rng import CounterRNG, uniform
from esper.bandit.linear import LinearModel
from esper.bandit.policies import Policy
from esper.topics.models import SelectionLimits

PURPOSE: Final = "selection"
TIE_BREAK: Final = "tie-break"
_BLUEPRINT: Final = f"{PURPOSE}/blueprint"
_ATTENTION: Final = f"{PURPOSE}/attention"
# Random numbers depend on this text, so committed histories need it unchanged.
_SLOT_TIE_BREAK: Final = "seat"  # codespell:ignore seat


class SlotId(NamedTuple):
    """One slot of a site."""

    site: str
    slot: int


class SelectorInput(NamedTuple):
    """The arms, slots and statistics that a selector chooses from.

    `slot_ids` are in the order of (site, slot), `slot_index` holds their indexes, `slots` the
    number of slots per site; nothing may be planted in `closed` slots. `features` (n, d) and
    `model` are set for contextual policies.
    """

    arm_features: ArmFeatures
    arm_stats: ArmStats
    slot_ids: tuple[SlotId, ...]
    slot_index: Mapping[SlotId, int]
    slots: Mapping[str, int]
    slot_stats: ArmStats
    trials: int
    closed: frozenset[SlotId]
    features: FloatArray | None = None
    model: LinearModel | None = None


class ArmChoice(NamedTuple):
    """The slot to plant in, the index of the arm to plant, and the arm's score."""

    slot_id: SlotId
    arm: int
    score: float


@dataclass(frozen=True, slots=True)
class SeedSelector:
    """Choose by policies within limits; pure. `seed` and the report's seq give the randomness.

    With `attention` one bandit chooses the slot and a bandit per site chooses its blueprint.
    Without, `policy` chooses among all arms, and the first free slot is taken. Ties are broken at
    random, by one number per arm with `draw_per_arm`.
    """

    policy: Policy
    attention: Policy | None
    limits: SelectionLimits
    seed: int
    draw_per_arm: bool = False

    def choose(self, inputs: SelectorInput, situation: Situation) -> ArmChoice | None:
        """Return the arm and slot to plant next; None where constraints rule out every arm."""
        if situation.on_trial >= self.limits.max_on_trial or not inputs.arm_features.kernels:
            return None
        if self.attention is not None:
            return self._choose_slot_first(inputs, situation)
        best = self._best_arm(inputs, situation, slice(0, len(inputs.arm_features.kernels)))
        if best is None:
            return None
        return ArmChoice(_first_open(inputs, inputs.arm_features.kernels[best[0]].site), *best)

    def slot_scores(self, inputs: SelectorInput, seq: int) -> FloatArray:
        """Return the score of each slot; the slot with the highest score is filled first.

        Raises:
            ValueError: the selector has no policy for slots.
        """
        if self.attention is None:
            raise ValueError(
                "the selector has no policy for slots; set `attention` in the selection"
            )
        context, arms = inputs.slot_stats.for_policy(self.attention.discounting, inputs.trials)
        return self.attention.score(context, arms, CounterRNG(self.seed, seq, _ATTENTION))

    def arm_scores(self, inputs: SelectorInput, seq: int) -> FloatArray:
        """Return the score of each arm; with a slot policy, relative to the arms of its site."""
        count = len(inputs.arm_features.kernels)
        if self.attention is None:
            return self._scores(inputs, seq, slice(0, count))
        scores = np.empty(count)
        for where in inputs.arm_features.sites.values():
            scores[where] = self._scores(inputs, seq, where)
        return scores

    def _choose_slot_first(self, inputs: SelectorInput, situation: Situation) -> ArmChoice | None:
        if not inputs.slot_ids:
            return None
        scores = self.slot_scores(inputs, situation.seq)
        codes: Codes = np.zeros(len(inputs.slot_ids), np.int8)
        for closed in inputs.closed:
            # A report may list slots that the run_config does not have.
            if (index := inputs.slot_index.get(closed)) is not None:
                codes[index] = Constraint.NO_SEED_FREE
        while (index := self._first(scores, codes, situation.seq, _SLOT_TIE_BREAK)) is not None:
            slot_id = inputs.slot_ids[index]
            best = self._best_arm(inputs, situation, inputs.arm_features.of_site(slot_id.site))
            if best is not None:
                return ArmChoice(slot_id, *best)
            first = inputs.slot_index[SlotId(slot_id.site, 0)]
            codes[first : first + inputs.slots[slot_id.site]] = Constraint.NO_SEED_FREE
        return None

    def _best_arm(
        self, inputs: SelectorInput, situation: Situation, where: slice
    ) -> tuple[int, float] | None:
        codes = constraint_codes(self.limits, situation, inputs.arm_features, where)
        if np.count_nonzero(codes) == len(codes):
            return None
        scores = self._scores(inputs, situation.seq, where)
        best = self._first(scores, codes, situation.seq, TIE_BREAK)
        return None if best is None else (where.start + best, float(scores[best]))

    def _scores(self, inputs: SelectorInput, seq: int, where: slice) -> FloatArray:
        policy, arm_features = self.policy, inputs.arm_features
        if where.stop - where.start == len(arm_features.kernels):
            rows, purpose = None, _BLUEPRINT
        else:
            rows, purpose = where, f"{_BLUEPRINT}/{arm_features.kernels[where.start].site}"
        context, arms = inputs.arm_stats.for_policy(
            policy.discounting, inputs.trials, rows, inputs.features, inputs.model
        )
        return policy.score(context, arms, CounterRNG(self.seed, seq, purpose))

    def _first(self, scores: FloatArray, codes: Codes, seq: int, purpose: str) -> int | None:
        """Return the index of the highest score without a constraint; None if all have one.

        Ties are broken at random.
        """
        best = int(scores.argmax())
        if codes[best]:
            if np.count_nonzero(codes) == len(codes):
                return None
            scores = np.where(codes, -np.inf, scores)
            best = int(scores.argmax())
        equal = scores == scores[best]
        if np.count_nonzero(equal) == 1:
            return best
        ties = np.flatnonzero(equal & (codes == 0))
        if self.draw_per_arm:
            return min(
                (uniform(self.seed, seq, TIE_BREAK, index), index) for index in ties.tolist()
            )[1]
        return int(ties[int(uniform(self.seed, seq, purpose, len(ties)) * len(ties))])


def _first_open(inputs: SelectorInput, site: str) -> SlotId:
    """Return the first open slot of a site that has an open slot."""
    slot = 0
    while (site, slot) in inputs.closed:
        slot += 1
    return SlotId(site, slot)
