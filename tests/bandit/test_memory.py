"""What runs leave to later ones: counted once, discounted, capped, bounded."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit.memory import (
    DEFAULT_RETENTION,
    MAX_REMEMBERED,
    ArmRecord,
    FamilyMemory,
    MemoryUpdate,
    RetentionPolicy,
    snapshot,
    with_run,
)
from esper.topics.models import MemorySnapshot, SiteKind, SiteSignature

CONV = "feature_map:4x8x8>8x8x8"
FC = "vector:32>12"

pulls = st.integers(1, 500)
means = st.floats(0, 1)
updates = st.builds(
    MemoryUpdate, st.sampled_from([CONV, FC]), st.sampled_from("abcdef"), pulls=pulls, mean=means
)
runs = st.lists(updates, max_size=8)
histories = st.lists(runs, max_size=12)


def after(
    *history: list[MemoryUpdate], retention: RetentionPolicy = DEFAULT_RETENTION
) -> FamilyMemory:
    """The memory after runs that ended a second apart."""
    memory = FamilyMemory()
    for number, learnt in enumerate(history):
        memory = with_run(
            memory, learnt, run_id=f"run-{number}", at_ms=1000 * number, retention=retention
        )
    return memory


def test_a_signature_reads_as_kind_input_and_output() -> None:
    signature = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(4, 8, 8), h=(8, 8, 8))
    assert signature.text == CONV
    assert SiteSignature(kind=SiteKind.VECTOR, x=(32,), h=(12,), dtype="bfloat16").text == FC


def test_the_first_run_is_remembered_as_it_was() -> None:
    memory = after([MemoryUpdate(CONV, "a", 4, 0.7)])
    assert memory.arms == {(CONV, "a"): ArmRecord(4.0, 0.7, 0)}
    assert memory.runs == ("run-0",)


def test_a_later_run_is_pooled_with_a_discounted_past() -> None:
    memory = after([MemoryUpdate(CONV, "a", 10, 0.5)], [MemoryUpdate(CONV, "a", 2, 1.0)])
    assert memory.arms == {(CONV, "a"): ArmRecord(10.0, (8 * 0.5 + 2 * 1.0) / 10, 1000)}


@given(histories, runs)
def test_the_same_run_counts_once(
    history: list[list[MemoryUpdate]], learnt: list[MemoryUpdate]
) -> None:
    memory = after(*history, learnt)
    last = memory.runs[-1]
    assert with_run(memory, learnt, run_id=last, at_ms=9_999) is memory


@given(histories)
def test_no_arm_weighs_more_than_the_cap_and_every_mean_is_a_reward(
    history: list[list[MemoryUpdate]],
) -> None:
    for arm in after(*history).arms.values():
        assert 0 < arm.weight <= DEFAULT_RETENTION.max_weight
        assert 0 <= arm.mean <= 1


@given(histories, pulls, means)
def test_no_number_of_runs_drowns_the_evidence_of_a_new_one(
    history: list[list[MemoryUpdate]], tried: int, mean: float
) -> None:
    memory = after(*history, [MemoryUpdate(CONV, "a", tried, mean)])
    past = DEFAULT_RETENTION.discount * DEFAULT_RETENTION.max_weight
    assert abs(memory.arms[CONV, "a"].mean - mean) <= past / (past + tried) + 1e-12


@given(st.lists(st.tuples(pulls, means), min_size=3, max_size=4))
def test_the_order_of_a_runs_sites_does_not_matter(tried: list[tuple[int, float]]) -> None:
    orders = permutations([MemoryUpdate(CONV, "a", *item) for item in tried])
    assert len({after([], list(learnt)).arms[CONV, "a"] for learnt in orders}) == 1


@given(st.lists(updates, max_size=8))
def test_runs_of_other_signatures_are_remembered_in_any_order(learnt: list[MemoryUpdate]) -> None:
    conv = [update for update in learnt if update.signature == CONV]
    fc = [update for update in learnt if update.signature == FC]
    known = after([MemoryUpdate(CONV, "a", 3, 0.1), MemoryUpdate(FC, "b", 3, 0.2)])

    def both(first: list[MemoryUpdate], second: list[MemoryUpdate]) -> FamilyMemory:
        return with_run(with_run(known, first, run_id="x", at_ms=5), second, run_id="y", at_ms=5)

    assert both(conv, fc).arms == both(fc, conv).arms


def test_of_two_runs_the_later_counts_more() -> None:
    good, bad = [MemoryUpdate(CONV, "a", 5, 1.0)], [MemoryUpdate(CONV, "a", 5, 0.0)]
    assert after(good, bad).arms[CONV, "a"].mean < 0.5 < after(bad, good).arms[CONV, "a"].mean


@given(histories)
def test_a_run_that_tried_nothing_changes_nothing_but_the_list_of_runs(
    history: list[list[MemoryUpdate]],
) -> None:
    assert after(*history, []).arms == after(*history).arms
    assert after(*history, []).runs == (*after(*history).runs, f"run-{len(history)}")


def test_what_is_not_tried_again_fades_and_goes() -> None:
    others = [[MemoryUpdate(CONV, "b", 1, 0.5)]] * 40
    weights = []
    for count in range(40):
        memory = after([MemoryUpdate(CONV, "a", 9, 0.9)], *others[:count])
        weights.append(memory.arms.get((CONV, "a"), ArmRecord(0.0, 0.9, 0)).weight)
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 9.0
    assert weights[-1] == 0.0


def test_what_is_known_of_other_signatures_stays_as_it_is() -> None:
    memory = after([MemoryUpdate(FC, "a", 9, 0.9)], *[[MemoryUpdate(CONV, "b", 1, 0.5)]] * 40)
    assert memory.arms[FC, "a"] == ArmRecord(9.0, 0.9, 0)


@given(histories)
def test_arms_and_runs_are_bounded_and_the_least_recent_go_first(
    history: list[list[MemoryUpdate]],
) -> None:
    bound = RetentionPolicy(max_arms=3, max_runs=2)
    memory, unbounded = after(*history, retention=bound), after(*history)
    assert len(memory.arms) <= 3
    assert memory.runs == unbounded.runs[-2:]
    ages = sorted((arm.at_ms for arm in unbounded.arms.values()), reverse=True)
    assert sorted((arm.at_ms for arm in memory.arms.values()), reverse=True) == ages[:3]


def test_of_arms_that_are_equally_old_the_lightest_go() -> None:
    learnt = [
        MemoryUpdate(CONV, "a", 1, 0.5),
        MemoryUpdate(CONV, "b", 3, 0.5),
        MemoryUpdate(CONV, "c", 2, 0.5),
    ]
    assert set(after(learnt, retention=RetentionPolicy(max_arms=2)).arms) == {
        (CONV, "b"),
        (CONV, "c"),
    }


def test_a_clock_that_goes_back_makes_nothing_older() -> None:
    memory = with_run(
        after([], [MemoryUpdate(CONV, "a", 1, 0.5)]),
        [MemoryUpdate(CONV, "a", 1, 0.5)],
        run_id="skewed",
        at_ms=-5,
    )
    assert memory.arms[CONV, "a"].at_ms == 1000


def test_a_snapshot_has_what_is_known_of_the_sites_of_a_run_by_name() -> None:
    memory = after(
        [
            MemoryUpdate(FC, "a", 2, 0.6),
            MemoryUpdate(CONV, "b", 1, 0.2),
            MemoryUpdate(CONV, "a", 1, 0.3),
        ]
    )
    assert [(arm.signature, arm.blueprint_id) for arm in snapshot(memory, [CONV])] == [
        (CONV, "a"),
        (CONV, "b"),
    ]
    (fc,) = snapshot(memory, [FC])
    assert (fc.weight, fc.mean) == (2.0, 0.6)
    assert snapshot(memory, []) == ()


def test_a_snapshot_is_no_larger_than_an_opening_takes_and_has_the_heaviest() -> None:
    learnt = [MemoryUpdate(FC, f"arm-{n:04d}", 1 + n % 7, 0.5) for n in range(MAX_REMEMBERED + 500)]
    arms = snapshot(after(learnt), [FC])
    assert len(MemorySnapshot(family="digits", arms=arms).arms) == MAX_REMEMBERED
    lightest = sorted(min(update.pulls, 20) for update in learnt)[500]
    assert min(arm.weight for arm in arms) == lightest
    assert list(arms) == sorted(arms, key=lambda arm: arm.blueprint_id)


@pytest.mark.parametrize(
    ("tried", "mean"),
    [(0, 0.5), (-1, 0.5), (math.inf, 0.5), (math.nan, 0.5), (1, math.nan), (1, 2)],
)
def test_an_invalid_memory_update_is_refused_by_name(tried: float, mean: float) -> None:
    with pytest.raises(ValueError, match=f"low-rank at {CONV}"):
        after([MemoryUpdate(CONV, "low-rank", tried, mean)])
