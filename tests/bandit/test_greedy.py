"""ε-greedy, softmax over performance, and the random control: how often each arm comes first."""

import math
from collections import Counter

import numpy as np
import pytest

from esper.bandit import POLICIES, CounterRNG, Policy, PolicyContext
from tests.bandit.arms import RNG, after, columns

HistoryKey = list[tuple[float, float]]

TRIED: HistoryKey = [(30, 0.2), (50, 0.8), (20, 0.7)]
DECISIONS = 2000


def firsts(policy: Policy, state: PolicyContext, tried: HistoryKey = TRIED) -> list[float]:
    """How often each arm has the best score, over many decisions."""
    arms = columns(tried)
    counts = Counter(
        int(np.argmax(policy.score(state, arms, CounterRNG(3, seq, "test"))))
        for seq in range(DECISIONS)
    )
    return [counts[arm] / DECISIONS for arm in range(len(arms))]


def close(share: float) -> object:
    """Within four standard errors."""
    return pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / DECISIONS) + 1e-12)


def test_epsilon_greedy_explores_as_often_as_the_paper_says() -> None:
    """c K / (d² n) = 0.1 * 3 / (0.01 * 100) = 0.3 at n = 100: a third of that for each."""
    shares = firsts(POLICIES["epsilon-greedy"](c=0.1, gap=0.1), PolicyContext(99.0))
    assert shares == [close(0.1), close(0.8), close(0.1)]


def test_epsilon_greedy_counts_the_trial_to_come() -> None:
    """0.5 * 3 / (1 * n) with n = 3 after two trials: half of the time."""
    shares = firsts(POLICIES["epsilon-greedy"](c=0.5, gap=1.0), PolicyContext(2.0))
    assert shares == [close(1 / 6), close(2 / 3), close(1 / 6)]


def test_epsilon_greedy_explores_all_the_time_at_first() -> None:
    shares = firsts(POLICIES["epsilon-greedy"](), PolicyContext(0.0))
    assert shares == [close(1 / 3)] * 3


def test_epsilon_greedy_explores_ever_less() -> None:
    shares = firsts(POLICIES["epsilon-greedy"](), PolicyContext(1e9))
    assert shares == [0.0, 1.0, 0.0]


def test_epsilon_greedy_that_does_not_explore_scores_means_and_wants_what_was_never_tried() -> None:
    arms = columns([*TRIED, (0, 0.0)])
    scores = POLICIES["epsilon-greedy"](c=0.0).score(after(TRIED), arms, RNG)
    assert scores.tolist() == [0.2, 0.8, 0.7, math.inf]


@pytest.mark.parametrize("temperature", [0.05, 0.3, 10.0])
def test_performance_draws_arms_by_the_softmax_of_their_means(temperature: float) -> None:
    powers = [math.exp(mean / temperature) for _, mean in TRIED]
    shares = firsts(POLICIES["performance"](temperature), after(TRIED))
    assert shares == [close(power / sum(powers)) for power in powers]


def test_random_draws_every_arm_alike_whatever_it_has_shown() -> None:
    assert firsts(POLICIES["random"](), after(TRIED)) == [close(1 / 3)] * 3


def test_random_does_not_look_at_the_arms() -> None:
    policy = POLICIES["random"]()
    scores = [
        policy.score(after(tried), columns(tried), RNG).tolist()
        for tried in (TRIED, [(0, 0.0)] * 3)
    ]
    assert scores[0] == scores[1]
