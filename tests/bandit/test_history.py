"""What is kept of trials: bounded, exact, and forgotten as a policy says."""

import math
from statistics import fmean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from esper.bandit import NO_DISCOUNT, ArmHistory, Discounting, TrialResult
from esper.bandit.history import RECENT, discount_power

rewards = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def told(values: list[float], discounting: Discounting = NO_DISCOUNT) -> ArmHistory:
    """The history of trials 1, 2, 3 .. of a bandit with one arm."""
    history = ArmHistory()
    for number, reward in enumerate(values, start=1):
        history = history.after(TrialResult(reward=reward, seq=number), number, discounting)
    return history


@given(rewards)
def test_mean_and_variance_are_those_of_all_rewards(values: list[float]) -> None:
    history = told(values)
    assert history.pulls == len(values)
    assert history.mean == pytest.approx(fmean(values))
    assert history.variance == pytest.approx(pvariance(values), abs=1e-12)
    assert history.moments(NO_DISCOUNT, 1000) == (len(values), history.mean, history.variance)


@given(rewards, st.integers(1, 30), st.integers(0, 40))
def test_a_window_leaves_the_rewards_of_the_last_trials_of_the_bandit(
    values: list[float], window: int, idle: int
) -> None:
    discounting = Discounting(window=window)
    now = len(values) + idle
    inside = [value for number, value in enumerate(values, start=1) if number > now - window]
    weight, mean, variance = told(values, discounting).moments(discounting, now)
    assert weight == len(inside)
    assert mean == pytest.approx(fmean(inside) if inside else 0.0)
    assert variance == pytest.approx(pvariance(inside) if inside else 0.0, abs=1e-12)


@given(rewards, st.floats(0.5, 1.0, exclude_max=True), st.integers(0, 40))
def test_a_discount_weighs_each_reward_by_the_trials_since(
    values: list[float], discount: float, idle: int
) -> None:
    discounting = Discounting(discount=discount)
    now = len(values) + idle
    weights = [discount ** (now - number) for number in range(1, len(values) + 1)]
    weight, mean, _ = told(values, discounting).moments(discounting, now)
    assert weight == pytest.approx(sum(weights))
    expected = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
    assert mean == pytest.approx(expected)


@given(st.floats(0.01, 0.999), st.integers(0, 500))
def test_fading_is_the_same_however_far_the_table_of_powers_reaches(
    discount: float, trials: int
) -> None:
    product = 1.0
    for _ in range(trials):
        product *= discount
    assert discount_power(discount, trials) == product
    discount_power(discount, 4000)
    assert discount_power(discount, trials) == product


def test_the_trend_is_the_slope_of_the_last_rewards() -> None:
    assert told([0.9, 0.1, *(0.1 * step for step in range(RECENT))]).trend == pytest.approx(0.1)
    assert told([0.5] * RECENT).trend == pytest.approx(0.0)
    assert told([0.5]).trend == ArmHistory().trend == 0.0


@given(st.lists(st.floats(0, 1), min_size=200, max_size=300), st.none() | st.integers(1, 50))
def test_memory_is_constant_however_many_trials_there_were(
    values: list[float], window: int | None
) -> None:
    history = told(values, Discounting(window=window))
    assert len(history.recent) == max(RECENT, window or 0)


def test_it_tells_how_long_ago_the_last_trial_was() -> None:
    assert told([0.5, 0.5]).reports_since(7) == 5
    assert ArmHistory().reports_since(7) is None


@pytest.mark.parametrize("reward", [-0.001, 1.001, math.nan, math.inf, -math.inf, 1e308])
def test_a_reward_outside_its_range_is_refused(reward: float) -> None:
    with pytest.raises(ValidationError, match="reward"):
        TrialResult(reward=reward)


@pytest.mark.parametrize(
    ("window", "discount", "complaint"),
    [(0, 1.0, "window is 0"), (1001, 1.0, "window is 1001"), (None, 0.0, "discount is 0.0")],
)
def test_what_could_not_be_remembered_in_bounds_is_refused(
    window: int | None, discount: float, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Discounting(window=window, discount=discount)
