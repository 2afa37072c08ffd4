"""KL-UCB: the greatest mean that what was seen leaves possible."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import POLICIES, PolicyContext
from tests.bandit.arms import RNG, after, columns, trials

HistoryKey = list[tuple[float, float]]


def scores_of(tried: HistoryKey, **params: float) -> list[float]:
    return POLICIES["kl-ucb"](**params).score(after(tried), columns(tried), RNG).tolist()


def bound(weight: float, mean: float, total: float) -> float:
    arms = columns([(weight, mean)])
    return float(POLICIES["kl-ucb"]().score(PolicyContext(total), arms, RNG)[0])


def divergence(mean: float, q: float) -> float:
    """That of Bernoulli distributions, from the standard library."""
    one = mean * math.log(mean / q) if mean else 0.0
    other = (1 - mean) * math.log((1 - mean) / (1 - q)) if mean < 1 else 0.0
    return one + other


def test_a_mean_of_zero_has_a_bound_in_closed_form() -> None:
    """kl(0, q) = -ln(1 - q), so q = 1 - t^(-1/n): n = 4, t = 16 gives one half."""
    assert bound(4, 0.0, 16) == pytest.approx(0.5, abs=1e-12)


def test_a_hand_worked_case() -> None:
    """kl(1/2, q) = -ln(4 q (1 - q)) / 2 = ln(16) / 4 where 4 q (1 - q) = 1/4: q = (2 + √3) / 4."""
    assert bound(4, 0.5, 16) == pytest.approx((2 + math.sqrt(3)) / 4, abs=1e-12)


@given(trials)
def test_the_bound_lies_between_the_mean_and_one(tried: HistoryKey) -> None:
    for score, (_, mean) in zip(scores_of(tried), tried, strict=True):
        assert mean <= score <= 1.0


@given(
    st.floats(0.5, 1e4),
    st.one_of(st.floats(0, 1), st.floats(0, 1e-6), st.floats(1 - 1e-6, 1)),
    st.floats(2, 1e6),
)
def test_at_the_bound_the_divergence_of_all_trials_is_the_logarithm_of_time(
    weight: float, mean: float, total: float
) -> None:
    q = bound(weight, mean, total)
    allowed = math.log(total) / weight
    if q < 1 - 1e-9 and mean < 1:
        slope = (q - mean) / (q * (1 - q))
        assert divergence(mean, q) == pytest.approx(allowed, rel=1e-8, abs=1e-12 + 1e-12 * slope)
    elif mean < 1:
        assert divergence(mean, 1 - 1e-9) <= allowed + 1e-9


@given(trials, st.data())
def test_a_better_mean_never_scores_worse(tried: HistoryKey, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(tried) - 1))
    better = data.draw(st.floats(tried[index][1], 1))
    improved = list(tried)
    improved[index] = (tried[index][0], better)
    assert scores_of(improved)[index] >= scores_of(tried)[index] - 1e-12


@given(trials)
def test_it_is_never_above_the_bound_of_hoeffding(tried: HistoryKey) -> None:
    """Pinsker's inequality; UCB1 with exploration 1/2."""
    above = POLICIES["ucb1"](exploration=0.5).score(after(tried), columns(tried), RNG)
    assert np.all(np.array(scores_of(tried)) <= above + 1e-9)


def test_c_raises_what_is_allowed_by_the_iterated_logarithm() -> None:
    """ln t + 3 ln ln t at t = 100, in the closed form of mean 0 and one trial of weight 10."""
    arms = columns([(10, 0.0)])
    found = POLICIES["kl-ucb"](c=3.0).score(PolicyContext(100.0), arms, RNG)[0]
    allowed = math.log(100) + 3 * math.log(math.log(100))
    assert found == pytest.approx(1 - math.exp(-allowed / 10), abs=1e-11)


def test_the_bits_never_change() -> None:
    """Old runs are audited with them."""
    found = scores_of([(3, 0.2), (40, 0.55), (1, 1.0), (7, 0.0), (900, 0.999)])
    assert [score.hex() for score in found] == [
        "0x1.f025840ad0d09p-1",
        "0x1.9d9ac9485d327p-1",
        "0x1.0000000000000p+0",
        "0x1.3fc5c0226cb0ep-1",
        "0x1.fffff9eff707cp-1",
    ]
