"""Columns: kept up trial by trial, they are those of a fresh start."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import NO_DISCOUNT, ArmHistory, ArmStats, Discounting, Prior, TrialResult

ARMS = 5

moves = st.lists(st.tuples(st.integers(0, ARMS - 1), st.floats(0, 1)), max_size=30)
priors = st.dictionaries(
    st.integers(0, ARMS - 1), st.builds(Prior, st.floats(0.01, 10), st.floats(0, 1))
)
forgettings = st.sampled_from([NO_DISCOUNT, Discounting(window=4), Discounting(discount=0.8)])


def played(
    moves: list[tuple[int, float]], priors: dict[int, Prior], discounting: Discounting
) -> tuple[ArmStats, dict[int, ArmHistory]]:
    """ArmStats after these trials, one after the other, and the histories themselves."""
    histories: dict[int, ArmHistory] = {}
    arm_stats = ArmStats.of(ARMS, {}, priors)
    for number, (arm, reward) in enumerate(moves, start=1):
        result = TrialResult(reward=reward)
        histories[arm] = histories.get(arm, ArmHistory()).after(result, number, discounting)
        arm_stats = arm_stats.with_history(arm, histories[arm])
    return arm_stats, histories


@given(moves, priors, forgettings)
def test_columns_kept_up_are_bit_for_bit_those_of_a_restored_state(
    moves: list[tuple[int, float]], priors: dict[int, Prior], discounting: Discounting
) -> None:
    arm_stats, histories = played(moves, priors, discounting)
    fresh = ArmStats.of(ARMS, dict(sorted(histories.items())), priors)
    for rule in (NO_DISCOUNT, discounting):
        ours, theirs = (stats.for_policy(rule, len(moves)) for stats in (arm_stats, fresh))
        assert ours[0] == theirs[0]
        for column in ("weight", "mean", "variance"):
            assert (getattr(ours[1], column) == getattr(theirs[1], column)).all()


@given(moves)
def test_without_a_prior_the_mean_is_the_very_one_of_the_history(
    moves: list[tuple[int, float]],
) -> None:
    arm_stats, histories = played(moves, {}, NO_DISCOUNT)
    for arm, history in histories.items():
        assert arm_stats.lifetime.mean[arm] == history.mean
        assert arm_stats.lifetime.weight[arm] == history.pulls


def test_a_prior_counts_as_trials_of_its_mean() -> None:
    arm_stats, _ = played([(0, 1.0), (0, 1.0)], {0: Prior(2.0, 0.5)}, NO_DISCOUNT)
    assert arm_stats.lifetime.weight[0] == 4.0
    assert arm_stats.lifetime.mean[0] == pytest.approx(0.75)


@given(moves, priors, forgettings, st.integers(0, ARMS), st.integers(0, ARMS))
def test_a_range_of_arms_is_a_part_of_all_and_its_total_that_of_its_trials(
    moves: list[tuple[int, float]],
    priors: dict[int, Prior],
    discounting: Discounting,
    start: int,
    stop: int,
) -> None:
    where = slice(min(start, stop), max(start, stop))
    arm_stats, _ = played(moves, priors, discounting)
    _, whole = arm_stats.for_policy(discounting, len(moves))
    state, part = arm_stats.for_policy(discounting, len(moves), where)
    assert (part.weight == whole.weight[where]).all()
    assert (part.mean == whole.mean[where]).all()
    of_priors = sum(
        prior.weight for arm, prior in priors.items() if where.start <= arm < where.stop
    )
    assert state.total == pytest.approx(float(np.sum(part.weight)) - of_priors, abs=1e-9)


def test_updating_statistics_leaves_the_earlier_value_unchanged() -> None:
    before = ArmStats.of(2, {}, {})
    before.with_history(0, ArmHistory(pulls=3, mean=0.5))
    assert before.lifetime.weight.tolist() == [0.0, 0.0]
