"""The selector: whatever the policy prefers, what it chooses breaks no rule."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import (
    POLICIES,
    ArmChoice,
    ArmFeatures,
    ArmHistory,
    ArmStats,
    LinearModel,
    Policy,
    SeedSelector,
    SelectorInput,
    Situation,
    SlotId,
    policy_for,
)
from esper.topics.models import PolicySpec, SelectionLimits
from tests.bandit.choices import Case, cases, kernel

UCB1 = policy_for(PolicySpec())

policies = st.sampled_from(sorted(POLICIES)).map(lambda name: policy_for(PolicySpec(name=name)))
attentions = st.none() | policies.filter(lambda policy: not policy.contextual)


def breaks(case: Case, choice: ArmChoice) -> list[str]:
    """Every rule that a choice breaks, each looked at in plain words, arm by arm."""
    limits, situation, options = case.limits, case.situation, case.options
    arm = options.arm_features.kernels[choice.arm]
    cost = arm.cost
    broken = {
        "slot of another site": choice.slot_id.site != arm.site,
        "slot closed": choice.slot_id in options.closed or choice.slot_id not in options.slot_ids,
        "no slot yet": bool(situation.everywhere),
        "too many on trial": situation.on_trial >= limits.max_on_trial,
        "forbidden": arm.blueprint_id in limits.forbidden or arm.site in limits.forbidden_sites,
        "not pinned": arm.blueprint_id not in limits.pinned.get(arm.site, (arm.blueprint_id,)),
        "being culled": (arm.site, arm.kernel_id) in situation.culled,
        "under embargo": case.embargoes[choice.arm] > situation.seq,
        "category present": (arm.site, arm.category) in situation.present,
        "category rests": (arm.site, arm.category) in situation.rotating,
        "too many parameters": limits.max_params is not None
        and situation.used.params + arm.params > 0.8 * limits.max_params,
        "too much memory": limits.max_memory_ratio is not None
        and (
            cost is None
            or cost.memory_ratio is None
            or cost.memory_ratio > 0.8 * limits.max_memory_ratio - situation.used.memory_ratio
        ),
        "too slow": limits.max_latency_ratio is not None
        and (
            cost is None
            or cost.latency_ratio is None
            or cost.latency_ratio > 0.8 * limits.max_latency_ratio - situation.used.latency_ratio
        ),
    }
    return [rule for rule, is_broken in broken.items() if is_broken]


def every_choice(case: Case) -> list[ArmChoice]:
    """All that could be chosen, rules or not."""
    return [
        ArmChoice(slot_id, index, 0.0)
        for index, arm in enumerate(case.options.arm_features.kernels)
        for slot_id in case.options.slot_ids
        if slot_id.site == arm.site
    ]


@given(cases(), policies, attentions, st.integers(0, 1 << 40))
def test_no_choice_ever_breaks_a_rule_and_none_is_missed(
    case: Case, policy: Policy, attention: Policy | None, seed: int
) -> None:
    selector = SeedSelector(policy, attention, case.limits, seed)
    options = case.options._replace(model=LinearModel() if policy.contextual else None)
    choice = selector.choose(options, case.situation)
    if choice is None:
        assert all(breaks(case, choice) for choice in every_choice(case)), "something was left"
    else:
        assert not breaks(case, choice)


def options(means: dict[tuple[str, str], float], slot_ids: dict[SlotId, float]) -> SelectorInput:
    """Return arms and slots with five trials each and these mean rewards."""
    offered = [kernel(site, name, name) for site, name in sorted(means)]
    ordered = sorted(slot_ids)
    return SelectorInput(
        arm_features=ArmFeatures.of(offered, [0] * len(offered), np.zeros(len(offered), np.int8)),
        arm_stats=_arm_stats([means[name] for name in sorted(means)]),
        slot_ids=tuple(ordered),
        slot_index={slot_id: index for index, slot_id in enumerate(ordered)},
        slots=Counter(slot_id.site for slot_id in ordered),
        slot_stats=_arm_stats([slot_ids[slot_id] for slot_id in ordered]),
        trials=5 * len(offered),
        closed=frozenset(),
    )


def _arm_stats(means: list[float]) -> ArmStats:
    histories = {index: ArmHistory(pulls=5, mean=mean) for index, mean in enumerate(means)}
    return ArmStats.of(len(means), histories, {})


MEANS = {("conv", "a"): 0.9, ("conv", "b"): 0.2, ("fc", "a"): 0.5, ("fc", "b"): 0.6}
SLOT_MEANS = {SlotId("conv", 0): 0.1, SlotId("fc", 0): 0.8, SlotId("fc", 1): 0.7}


def test_the_slot_policy_chooses_the_slot_and_the_policy_its_blueprint() -> None:
    """The best blueprint of all is at the site that does worse."""
    choice = SeedSelector(UCB1, UCB1, SelectionLimits(), 0).choose(
        options(MEANS, SLOT_MEANS), Situation(seq=9)
    )
    assert choice is not None
    assert (choice.slot_id, choice.arm) == (SlotId("fc", 0), 3)


def test_without_a_slot_policy_the_best_arm_takes_the_first_slot_of_its_site() -> None:
    choice = SeedSelector(UCB1, None, SelectionLimits(), 0).choose(
        options(MEANS, SLOT_MEANS), Situation(seq=9)
    )
    assert choice is not None
    assert (choice.slot_id, choice.arm) == (SlotId("conv", 0), 0)


def test_a_closed_slot_is_not_chosen() -> None:
    case = options({("fc", "a"): 0.5}, {SlotId("fc", 0): 0.9, SlotId("fc", 1): 0.1})
    case = case._replace(closed=frozenset({SlotId("fc", 0)}))
    for attention in (None, UCB1):
        choice = SeedSelector(UCB1, attention, SelectionLimits(), 0).choose(case, Situation(seq=9))
        assert choice is not None
        assert choice.slot_id == SlotId("fc", 1)


def test_attention_goes_to_the_next_site_where_nothing_is_left_at_the_first() -> None:
    limits = SelectionLimits(forbidden_sites=("fc",))
    case = options(MEANS, SLOT_MEANS)
    banned = np.array([0, 0, 2, 2], np.int8)
    arm_features = ArmFeatures.of(case.arm_features.kernels, [0] * 4, banned)
    choice = SeedSelector(UCB1, UCB1, limits, 0).choose(
        case._replace(arm_features=arm_features), Situation(seq=9)
    )
    assert choice is not None
    assert choice.slot_id == SlotId("conv", 0)


@pytest.mark.parametrize("attention", [None, UCB1])
def test_among_equal_arms_each_is_chosen_about_as_often(attention: Policy | None) -> None:
    """Four equal arms, 400 runs: each between 60 and 140 times, 5 standard deviations."""
    even = options(dict.fromkeys(MEANS, 0.5), {SlotId("conv", 0): 0.5, SlotId("fc", 0): 0.5})
    counts: Counter[int] = Counter()
    for seed in range(400):
        choice = SeedSelector(UCB1, attention, SelectionLimits(), seed).choose(
            even, Situation(seq=9)
        )
        assert choice is not None
        counts[choice.arm] += 1
    assert set(counts) == {0, 1, 2, 3}
    assert all(56 <= count <= 144 for count in counts.values()), counts


def test_with_no_arm_at_all_nothing_is_chosen() -> None:
    empty = options({}, SLOT_MEANS)
    for attention in (None, UCB1):
        assert (
            SeedSelector(UCB1, attention, SelectionLimits(), 0).choose(empty, Situation(seq=0))
            is None
        )


def test_scores_on_record_are_those_that_were_chosen_by() -> None:
    case = options(MEANS, SLOT_MEANS)
    for attention in (None, UCB1):
        selector = SeedSelector(UCB1, attention, SelectionLimits(), 0)
        choice = selector.choose(case, Situation(seq=9))
        assert choice is not None
        assert selector.arm_scores(case, 9)[choice.arm] == choice.score
