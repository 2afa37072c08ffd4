"""The reward: contribution per cost, in a range that UCB1 can take."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esper.bandit import reward_of, share_of
from esper.bandit.reward import MAX_SHARE

contributions = st.floats(-1e100, 1e100)
losses = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.integers(0, 1 << 62)
everyday = st.floats(-10, 10)


@given(contributions, losses, sizes, sizes)
def test_a_reward_is_in_the_range_of_ucb1(
    contribution: float, loss: float, params: int, host_params: int
) -> None:
    assert 0.0 <= reward_of(contribution, loss, params, host_params) <= 1.0


@given(everyday, everyday, st.floats(0.01, 10), st.integers(0, 10_000))
def test_more_contribution_is_more_reward(a: float, b: float, loss: float, params: int) -> None:
    assume(abs(a - b) > 1e-6)
    low, high = sorted((a, b))
    assert reward_of(low, loss, params, 1000) < reward_of(high, loss, params, 1000)


@given(st.floats(0.001, 10), st.floats(0.01, 10), st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_same_contribution_from_more_parameters_is_less_reward(
    contribution: float, loss: float, params: int, more: int
) -> None:
    cheap = reward_of(contribution, loss, params, 1000)
    assert reward_of(contribution, loss, params + more, 1000) < cheap


@given(st.floats(0.01, 10), sizes)
def test_a_kernel_that_does_nothing_has_the_middle_reward(loss: float, params: int) -> None:
    assert reward_of(0.0, loss, params, 1000) == 0.5


@given(everyday, st.floats(0.01, 10), st.integers(0, 10_000))
def test_gain_and_harm_of_the_same_size_lie_alike_around_the_middle(
    contribution: float, loss: float, params: int
) -> None:
    gain = reward_of(contribution, loss, params, 1000)
    harm = reward_of(-contribution, loss, params, 1000)
    assert gain - 0.5 == pytest.approx(0.5 - harm)


def test_a_hand_worked_case() -> None:
    """Five per cent of the loss at no cost is half way up; at the host's own size a third."""
    assert reward_of(0.05, 1.0, 0, 1000) == pytest.approx(0.75)
    assert reward_of(0.05, 1.0, 1000, 1000) == pytest.approx(0.5 + 0.5 / 3)


def test_a_loss_or_a_host_of_nothing_divides_by_no_zero() -> None:
    assert reward_of(0.1, 0.0, 100, 0) > 0.5


@given(st.floats(-1, 1), st.integers(0, 10_000), st.integers(1, 10_000))
def test_from_a_reward_the_share_of_the_loss_that_earned_it_is_told(
    share: float, params: int, host_params: int
) -> None:
    reward = reward_of(share, 1.0, params, host_params)
    assert share_of(reward, params, host_params) == pytest.approx(share, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("reward", "share"), [(0.0, -MAX_SHARE), (1.0, MAX_SHARE)])
def test_rewards_that_nothing_earns_stand_for_the_most_there_is(
    reward: float, share: float
) -> None:
    assert share_of(reward, 10_000, 1) == share
