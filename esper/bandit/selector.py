"""Which seed gets attention, and which blueprint goes there."""

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


class SlotId(NamedTuple):
    """A place for a kernel: one seed of a site."""

    site: str
    slot: int


class SelectorInput(NamedTuple):
    """All that may be chosen from: arms at sites, seats at the same sites, and what is known.

    `slot_ids` are in the order of (site, slot), `slot_index` their index, `slots` how many a
    site has; in `closed` ones nothing may be planted. `features` (n, d) and `model` are for
    contextual policies.
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
    """The seat and the arm to plant in it, by its place among the offers, with its score."""

    slot_id: SlotId
    arm: int
    score: float


@dataclass(frozen=True, slots=True)
class SeedSelector:
    """Chooses by policies, within limits; pure, and random only by `seed` and the report's number.

    With `attention` there are two bandits, one among seats, and one at each site among its
    blueprints. Without, `policy` chooses among all arms, and the first free slot is taken. Equal
    scores are told apart by chance; by one number for each arm where `draw_per_arm`.
    """

    policy: Policy
    attention: Policy | None
    limits: SelectionLimits
    seed: int
    draw_per_arm: bool = False

    def choose(self, inputs: SelectorInput, situation: Situation) -> ArmChoice | None:
        """Return what to plant next; None where constraints leave nothing."""
        if situation.on_trial >= self.limits.max_on_trial or not inputs.arm_features.kernels:
            return None
        if self.attention is not None:
            return self._attend(inputs, situation)
        best = self._best_arm(inputs, situation, slice(0, len(inputs.arm_features.kernels)))
        if best is None:
            return None
        return ArmChoice(_first_open(inputs, inputs.arm_features.kernels[best[0]].site), *best)

    def slot_scores(self, inputs: SelectorInput, seq: int) -> FloatArray:
        """Return the score of each seat; the higher, the sooner it gets attention.

        Raises:
            ValueError: there is no policy for attention.
        """
        if self.attention is None:
            raise ValueError("this selector has no policy for attention")
        state, columns = inputs.slot_stats.seen_by(self.attention.discounting, inputs.trials)
        return self.attention.score(state, columns, CounterRNG(self.seed, seq, _ATTENTION))

    def arm_scores(self, inputs: SelectorInput, seq: int) -> FloatArray:
        """Return the score of each arm, among those of its site where attention chose it."""
        count = len(inputs.arm_features.kernels)
        if self.attention is None:
            return self._scores(inputs, seq, slice(0, count))
        scores = np.empty(count)
        for where in inputs.arm_features.sites.values():
            scores[where] = self._scores(inputs, seq, where)
        return scores

    def _attend(self, inputs: SelectorInput, situation: Situation) -> ArmChoice | None:
        if not inputs.slot_ids:
            return None
        scores = self.slot_scores(inputs, situation.seq)
        codes: Codes = np.zeros(len(inputs.slot_ids), np.int8)
        for closed in inputs.closed:
            # A report may tell of seats that its run did not open with.
            if (known := inputs.slot_index.get(closed)) is not None:
                codes[known] = Constraint.NO_SEED_FREE
        while (index := self._first(scores, codes, situation.seq, "seat")) is not None:
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
        state, columns = inputs.arm_stats.seen_by(
            policy.discounting, inputs.trials, rows, inputs.features, inputs.model
        )
        return policy.score(state, columns, CounterRNG(self.seed, seq, purpose))

    def _first(self, scores: FloatArray, codes: Codes, seq: int, purpose: str) -> int | None:
        """Return the place of the greatest score that no constraint rules out, if there is one.

        Chance decides among equal ones.
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
    """Return the first open seat of a site, which has one."""
    slot = 0
    while (site, slot) in inputs.closed:
        slot += 1
    return SlotId(site, slot)
