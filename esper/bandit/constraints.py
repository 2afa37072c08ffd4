"""Constraints on planting: `constraint_codes` rules arms out, whatever score they have."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from esper.bandit.arm_features import ArmFeatures, Codes
from esper.topics.models import LoadableKernel, SelectionLimits

BUDGET_SHARE: Final = 0.8
"""The share of a budget that may be used; the rest allows for unmeasured costs."""

Pairs = frozenset[tuple[str, str]]


class Constraint(IntEnum):
    """The reason that rules an arm out. Of several reasons, the lowest number is recorded.

    The exception is NO_ROOM, which applies to whole sites and precedes the reasons for single arms.
    """

    NONE = 0
    ON_TRIAL = 1
    FORBIDDEN = 2
    NOT_PINNED = 3
    CULLING = 4
    EMBARGO = 5
    NO_SEED_FREE = 6
    DORMANT_TIME = 7
    CATEGORY_PRESENT = 8
    CATEGORY_RESTS = 9
    PARAMS = 10
    MEMORY = 11
    LATENCY = 12
    NO_ROOM = 13
    NOT_AUDITIONED = 14

    @property
    def label(self) -> str:
        """The name of the constraint in decisions."""
        return self.name.lower().replace("_", "-")


class Costs(NamedTuple):
    """The total cost of planted kernels: parameters, and ratios to their host layers."""

    params: int = 0
    memory_ratio: float = 0.0
    latency_ratio: float = 0.0


NO_COSTS: Final = Costs()


class Situation(NamedTuple):
    """The facts about a run at one report that constraints use.

    `closed_sites` maps a site without an open slot to the reason (NO_SEED_FREE, DORMANT_TIME or
    NO_ROOM); `everywhere` is the reason for all other sites. `present` holds the (site, category)
    of planted and fossilized kernels, `rotating` the ones that rotation rules out, `culled` the
    (site, kernel_id) that are being culled. In runs with auditions, `auditioned` holds the
    (site, kernel_id) that may be planted.
    """

    seq: int
    on_trial: int = 0
    used: Costs = NO_COSTS
    everywhere: Constraint = Constraint.NONE
    closed_sites: Mapping[str, Constraint] = MappingProxyType({})
    present: Pairs = frozenset()
    rotating: Pairs = frozenset()
    culled: Pairs = frozenset()
    auditioned: Pairs | None = None


def constraint_codes(
    limits: SelectionLimits, situation: Situation, arm_features: ArmFeatures, where: slice
) -> Codes:
    """Return, for each arm in the range, the number of the constraint that rules it out, or 0."""
    count = where.stop - where.start
    codes: Codes = np.zeros(count, np.int8)
    if situation.on_trial >= limits.max_on_trial:
        codes[:] = Constraint.ON_TRIAL
        return codes
    # The most general constraint is written last, so its number remains.
    if situation.auditioned is not None:
        codes[:] = Constraint.NOT_AUDITIONED
        for name in situation.auditioned:
            _mark(codes, Constraint.NONE, (arm_features.by_kernel.get(name, -1),), where)
    if limits.has_budget:
        _over_budget(codes, limits, situation.used, arm_features, where)
    for pair in situation.rotating:
        _mark(codes, Constraint.CATEGORY_RESTS, arm_features.by_category.get(pair, ()), where)
    for pair in situation.present:
        _mark(codes, Constraint.CATEGORY_PRESENT, arm_features.by_category.get(pair, ()), where)
    if situation.everywhere:
        codes[:] = situation.everywhere
    for site, constraint in situation.closed_sites.items():
        codes[_inside(arm_features.of_site(site), where)] = constraint
    if arm_features.latest_embargo > situation.seq:
        codes[arm_features.embargo_until[where] > situation.seq] = Constraint.EMBARGO
    for name in situation.culled:
        _mark(codes, Constraint.CULLING, (arm_features.by_kernel.get(name, -1),), where)
    if arm_features.any_banned:
        banned = arm_features.banned[where]
        np.copyto(codes, banned, where=banned > 0)
    return codes


def permanent_codes(
    limits: SelectionLimits, slots: Mapping[str, int], kernels: Sequence[LoadableKernel]
) -> Codes:
    """Return, for each kernel, the constraint that rules it out for the whole run, or 0."""
    codes: Codes = np.zeros(len(kernels), np.int8)
    for index, kernel in enumerate(kernels):
        pinned = limits.pinned.get(kernel.site)
        if kernel.blueprint_id in limits.forbidden or kernel.site in limits.forbidden_sites:
            codes[index] = Constraint.FORBIDDEN
        elif pinned is not None and kernel.blueprint_id not in pinned:
            codes[index] = Constraint.NOT_PINNED
        elif kernel.site not in slots:
            codes[index] = Constraint.NO_SEED_FREE
    return codes


TEMPLATES: Final[Mapping[Constraint, str]] = {
    Constraint.ON_TRIAL: "{situation.on_trial} seeds are on trial, which is the limit",
    Constraint.FORBIDDEN: "the run forbids it",
    Constraint.NOT_PINNED: "the site is pinned to other blueprints",
    Constraint.CULLING: "it is being culled",
    Constraint.EMBARGO: "embargo until report {until}",
    Constraint.NO_SEED_FREE: "no slot of the site is free",
    Constraint.DORMANT_TIME: (
        "no seed of the site has been dormant for {limits.dormant_reports} reports"
    ),
    Constraint.CATEGORY_PRESENT: "category {kernel.category} is present at the site",
    Constraint.CATEGORY_RESTS: "category {kernel.category} was planted here lately and rests",
    Constraint.NO_ROOM: "what is on trial at the site has the whole alpha",
    Constraint.NOT_AUDITIONED: "no audition has shown that it helps more than others here",
    Constraint.PARAMS: (
        "too much for the parameters budget: {situation.used.params:.4g} of {share:.0%} of "
        "{limits.max_params} are used"
    ),
    Constraint.MEMORY: (
        "too much for the memory budget: {situation.used.memory_ratio:.4g} of {share:.0%} of "
        "{limits.max_memory_ratio} are used"
    ),
    Constraint.LATENCY: (
        "too much for the latency budget: {situation.used.latency_ratio:.4g} of {share:.0%} of "
        "{limits.max_latency_ratio} are used"
    ),
}
"""The template of `explain_constraint` for each constraint."""


def explain_constraint(
    constraint: Constraint,
    limits: SelectionLimits,
    situation: Situation,
    arm_features: ArmFeatures,
    arm: int,
) -> str:
    """Return a sentence that says why a constraint rules out an arm."""
    return TEMPLATES[constraint].format(
        limits=limits,
        situation=situation,
        kernel=arm_features.kernels[arm],
        until=int(arm_features.embargo_until[arm]),
        share=BUDGET_SHARE,
    )


def _over_budget(
    codes: Codes, limits: SelectionLimits, used: Costs, arm_features: ArmFeatures, where: slice
) -> None:
    if limits.max_latency_ratio is not None:
        left = BUDGET_SHARE * limits.max_latency_ratio - used.latency_ratio
        # An unmeasured cost is NaN, fails the comparison, and is ruled out.
        codes[~(arm_features.latency_ratio[where] <= left)] = Constraint.LATENCY
    if limits.max_memory_ratio is not None:
        left = BUDGET_SHARE * limits.max_memory_ratio - used.memory_ratio
        codes[~(arm_features.memory_ratio[where] <= left)] = Constraint.MEMORY
    if limits.max_params is not None:
        left = BUDGET_SHARE * limits.max_params - used.params
        codes[arm_features.params[where] > left] = Constraint.PARAMS


def _mark(codes: Codes, constraint: Constraint, arms: Sequence[int], where: slice) -> None:
    start, stop = where.start, where.stop
    for arm in arms:
        if start <= arm < stop:
            codes[arm - start] = constraint


def _inside(index: slice, where: slice) -> slice:
    """Return the part of a range inside `where`, relative to the start of `where`."""
    start = max(index.start, where.start) - where.start
    return slice(start, max(start, min(index.stop, where.stop) - where.start))
