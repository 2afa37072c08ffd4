"""What may not be planted now, whatever a policy prefers: one function over data."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from esper.bandit.arm_features import ArmFeatures, Codes
from esper.topics.models import LoadableKernel, SelectionLimits

BUDGET_SHARE: Final = 0.8
"""How much of a stated budget is used; the rest is for what was not measured."""

Pairs = frozenset[tuple[str, str]]


class Constraint(IntEnum):
    """Why an arm is out, the most general first; of several that first is named.

    NO_ROOM is said of whole sites, before what is said of single arms.
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

    @property
    def label(self) -> str:
        """Its name as decisions record it."""
        return self.name.lower().replace("_", "-")


class Costs(NamedTuple):
    """What planted kernels cost together: parameters, and ratios to their host layers."""

    params: int = 0
    memory_ratio: float = 0.0
    latency_ratio: float = 0.0


NO_COSTS: Final = Costs()


class Situation(NamedTuple):
    """A run at one report, as far as constraints need it.

    `closed_sites` says of each site where no seed can be planted why (NO_SEED_FREE, DORMANT_TIME
    or NO_ROOM); `everywhere` says it of all that are not named there. `present` are
    (site, category) of what is planted or kept, `rotating` of what rests, `culled`
    (site, kernel_id) of what is on its way out.
    """

    seq: int
    on_trial: int = 0
    used: Costs = NO_COSTS
    everywhere: Constraint = Constraint.NONE
    closed_sites: Mapping[str, Constraint] = MappingProxyType({})
    present: Pairs = frozenset()
    rotating: Pairs = frozenset()
    culled: Pairs = frozenset()


def constraint_codes(
    limits: SelectionLimits, situation: Situation, arm_features: ArmFeatures, where: slice
) -> Codes:
    """Return, for each arm in a range, the number of the constraint that rules it out, or 0."""
    count = where.stop - where.start
    codes: Codes = np.zeros(count, np.int8)
    if situation.on_trial >= limits.max_on_trial:
        codes[:] = Constraint.ON_TRIAL
        return codes
    # From the least to the most general: what is written last is what is named.
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
    """Return the constraint that rules a kernel out for the whole run, or 0, for each of them."""
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


WORDS: Final[Mapping[Constraint, str]] = {
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
"""What `explain_constraint` fills in for each constraint."""


def explain_constraint(
    constraint: Constraint,
    limits: SelectionLimits,
    situation: Situation,
    arm_features: ArmFeatures,
    arm: int,
) -> str:
    """Return in words why a constraint rules out an arm."""
    return WORDS[constraint].format(
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
        # What was never measured compares as not a number: it is out.
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
    """Return a range of arms as counted from the start of another, cut to it."""
    start = max(index.start, where.start) - where.start
    return slice(start, max(start, min(index.stop, where.stop) - where.start))
