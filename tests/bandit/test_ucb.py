"""UCB1 as in the paper, its bound over what is remembered, and nothing beside it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import POLICIES, Discounting, PolicyContext
from tests.bandit.arms import RNG, after, columns, trials

HistoryKey = list[tuple[float, float]]

BOUNDS = ("ucb1", "sliding-ucb", "discounted-ucb")


def scores_of(tried: HistoryKey, name: str = "ucb1", **params: float) -> list[float]:
    return POLICIES[name](**params).score(after(tried), columns(tried), RNG).tolist()


@given(trials)
def test_the_score_is_the_mean_plus_the_exploration_term_of_the_paper(tried: HistoryKey) -> None:
    total = sum(weight for weight, _ in tried)
    expected = [mean + math.sqrt(2 * math.log(total) / weight) for weight, mean in tried]
    assert scores_of(tried) == pytest.approx(expected, abs=1e-9)


def test_a_hand_worked_case() -> None:
    """t = 8, ln 8 = 2.0794; 0.5 + sqrt(4.1589 / 2) and 0.75 + sqrt(4.1589 / 6)."""
    assert scores_of([(2, 0.5), (6, 0.75)]) == pytest.approx([1.942027, 1.582555], abs=1e-6)


def test_exploration_weighs_the_second_term() -> None:
    tried: HistoryKey = [(2, 0.5), (6, 0.75)]
    assert scores_of(tried, exploration=0.0) == [0.5, 0.75]
    expected = pytest.approx([1.221014, 1.166277], abs=1e-6)
    assert scores_of(tried, exploration=0.5) == expected


def test_a_hand_worked_case_of_a_window() -> None:
    """B² ξ = 0.6: 0.5 + sqrt(0.6 ln 8 / 2)."""
    found = scores_of([(2, 0.5), (6, 0.75)], "sliding-ucb", exploration=0.6)
    assert found == pytest.approx([1.289831, 1.206009], abs=1e-6)


def test_a_hand_worked_case_of_discounting() -> None:
    """n = 4.9 discounted trials, 4 ξ = 2: 0.5 + sqrt(2 ln 4.9 / 1.9), 0.75 + sqrt(2 ln 4.9 / 3)."""
    found = scores_of([(1.9, 0.5), (3.0, 0.75)], "discounted-ucb", exploration=2.0)
    assert found == pytest.approx([1.793398, 1.779315], abs=1e-6)


@pytest.mark.parametrize("name", BOUNDS)
@given(trials)
def test_an_arm_never_tried_has_no_finite_score(name: str, tried: HistoryKey) -> None:
    scores = scores_of([*tried, (0, 0.0)], name)
    assert scores[-1] == math.inf
    assert np.all(np.isfinite(scores[:-1]))


@pytest.mark.parametrize("name", BOUNDS)
@given(trials, st.data())
def test_a_better_mean_never_scores_worse(
    name: str, tried: HistoryKey, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(tried) - 1))
    better = data.draw(st.floats(tried[index][1], 1))
    improved = list(tried)
    improved[index] = (tried[index][0], better)
    assert scores_of(improved, name)[index] >= scores_of(tried, name)[index]


@pytest.mark.parametrize("name", [*BOUNDS, "kl-ucb"])
def test_an_arm_left_alone_scores_higher_as_the_others_are_tried(name: str) -> None:
    scores = [scores_of([(1, 0.5), (n, 0.5)], name)[0] for n in (1, 5, 50, 500)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4


@given(trials, st.floats(0, 1e6))
def test_every_accepted_exploration_gives_finite_scores(
    tried: HistoryKey, exploration: float
) -> None:
    assert np.all(np.isfinite(scores_of(tried, exploration=exploration)))


def test_what_each_forgets() -> None:
    assert POLICIES["ucb1"]().discounting == Discounting()
    assert POLICIES["sliding-ucb"](window=50.0).discounting == Discounting(window=50)
    assert POLICIES["discounted-ucb"](discount=0.9).discounting == Discounting(discount=0.9)


def test_a_prior_counts_as_trials_of_its_arm_and_not_of_the_bandit() -> None:
    """Weight 3 of which 2 are believed: the total stays at 1 trial, so the bonus is 0."""
    arms = columns([(3, 0.6)])
    assert POLICIES["ucb1"]().score(PolicyContext(1.0), arms, RNG).tolist() == [0.6]
