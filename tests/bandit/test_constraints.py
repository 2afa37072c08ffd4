"""Constraints: each rules out what it says, on any range of arms, and the words name it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import (
    ArmFeatures,
    Constraint,
    Costs,
    Situation,
    constraint_codes,
    explain_constraint,
    permanent_codes,
)
from esper.topics.models import KernelCost, LoadableKernel, SelectionLimits
from tests.bandit.choices import Case, cases, kernel

NONE = Situation(seq=10)


def codes(
    *offered: LoadableKernel,
    limits: SelectionLimits | None = None,
    situation: Situation = NONE,
    embargo: int = 0,
) -> list[Constraint]:
    """The constraints on kernels at two sites with one slot each."""
    bounds = limits or SelectionLimits()
    slots = {"conv": 1, "fc": 1}
    arm_features = ArmFeatures.of(
        offered, [embargo] * len(offered), permanent_codes(bounds, slots, offered)
    )
    found = constraint_codes(bounds, situation, arm_features, slice(0, len(offered)))
    return [Constraint(code) for code in found.tolist()]


GATE, SKIP = kernel("conv", "a", "gate"), kernel("conv", "b", "skip")
MEASURED = kernel(
    "conv", "a", "gate", cost=KernelCost(flops=1, latency_ratio=1.0, memory_ratio=2.0)
)


def test_where_nothing_forbids_it_an_arm_may_be_planted() -> None:
    assert codes(GATE, SKIP) == [Constraint.NONE, Constraint.NONE]


@pytest.mark.parametrize(
    ("limits", "situation", "embargo", "constraint"),
    [
        (SelectionLimits(), NONE._replace(on_trial=2), 0, Constraint.ON_TRIAL),
        (SelectionLimits(forbidden=("a",)), NONE, 0, Constraint.FORBIDDEN),
        (SelectionLimits(forbidden_sites=("conv",)), NONE, 0, Constraint.FORBIDDEN),
        (SelectionLimits(pinned={"conv": ("b",)}), NONE, 0, Constraint.NOT_PINNED),
        (
            SelectionLimits(),
            NONE._replace(culled=frozenset({("conv", GATE.kernel_id)})),
            0,
            Constraint.CULLING,
        ),
        (SelectionLimits(), NONE, 11, Constraint.EMBARGO),
        (
            SelectionLimits(),
            NONE._replace(closed_sites={"conv": Constraint.NO_SEED_FREE}),
            0,
            Constraint.NO_SEED_FREE,
        ),
        (
            SelectionLimits(),
            NONE._replace(everywhere=Constraint.DORMANT_TIME),
            0,
            Constraint.DORMANT_TIME,
        ),
        (
            SelectionLimits(),
            NONE._replace(present=frozenset({("conv", "gate")})),
            0,
            Constraint.CATEGORY_PRESENT,
        ),
        (
            SelectionLimits(),
            NONE._replace(rotating=frozenset({("conv", "gate")})),
            0,
            Constraint.CATEGORY_RESTS,
        ),
        (SelectionLimits(max_params=1000), NONE._replace(used=Costs(701)), 0, Constraint.PARAMS),
        (SelectionLimits(max_memory_ratio=9), NONE, 0, Constraint.MEMORY),
        (SelectionLimits(max_latency_ratio=9), NONE, 0, Constraint.LATENCY),
    ],
)
def test_each_constraint_rules_out_what_it_says(
    limits: SelectionLimits, situation: Situation, embargo: int, constraint: Constraint
) -> None:
    assert codes(GATE, limits=limits, situation=situation, embargo=embargo) == [constraint]


def test_four_fifths_of_a_budget_are_used_and_no_more() -> None:
    budget = SelectionLimits(max_params=1000)
    assert codes(GATE, limits=budget, situation=NONE._replace(used=Costs(700))) == [0]
    assert codes(GATE, limits=budget, situation=NONE._replace(used=Costs(701))) != [0]
    for fits, limits in (
        (True, SelectionLimits(max_memory_ratio=2.5)),
        (False, SelectionLimits(max_memory_ratio=2.49)),
        (True, SelectionLimits(max_latency_ratio=1.25)),
        (False, SelectionLimits(max_latency_ratio=1.24)),
    ):
        assert (codes(MEASURED, limits=limits) == [Constraint.NONE]) is fits


def test_an_embargo_ends_with_the_report_it_names() -> None:
    assert codes(GATE, embargo=10) == [Constraint.NONE]


def test_a_category_of_one_site_says_nothing_of_another() -> None:
    at_fc = kernel("fc", "a", "gate")
    situation = NONE._replace(present=frozenset({("conv", "gate")}))
    assert codes(GATE, SKIP, at_fc, situation=situation) == [Constraint.CATEGORY_PRESENT, 0, 0]


@given(cases(), st.integers(0, 12), st.integers(0, 12))
def test_a_range_of_arms_is_constrained_as_it_is_among_all(
    case: Case, start: int, stop: int
) -> None:
    arm_features = case.options.arm_features
    count = len(arm_features.kernels)
    where = slice(min(start, stop, count), min(max(start, stop), count))
    whole = constraint_codes(case.limits, case.situation, arm_features, slice(0, count))
    part = constraint_codes(case.limits, case.situation, arm_features, where)
    assert part.tolist() == whole[where].tolist()


@given(cases())
def test_every_constraint_found_can_be_put_in_words(case: Case) -> None:
    arm_features = case.options.arm_features
    found = constraint_codes(
        case.limits, case.situation, arm_features, slice(0, len(arm_features.kernels))
    )
    for index, code in enumerate(found.tolist()):
        if code:
            assert explain_constraint(
                Constraint(code), case.limits, case.situation, arm_features, index
            )
