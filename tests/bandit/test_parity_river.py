"""The same histories give the same choices as river, except where river leaves out the bonus."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from river import bandit, proba

from esper.bandit import POLICIES, CounterRNG, Policy, PolicyContext
from tests.bandit.arms import after, columns

ARMS = 6
TRIALS = 400


def table() -> list[list[float]]:
    """The reward of each arm at each trial: none twice, so that nothing is tied."""
    generator = np.random.default_rng(7)
    means = np.linspace(0.3, 0.7, ARMS)
    return np.clip(generator.normal(means, 0.15, (TRIALS, ARMS)), 0.001, 0.999).tolist()


def chosen_by_river(policy: bandit.base.Policy) -> list[int]:
    """The arms that river pulls along the table."""
    sequence = []
    for rewards in table():
        arm = policy.pull(list(range(ARMS)))
        policy.update(arm, rewards[arm])
        sequence.append(arm)
    return sequence


def chosen_by_ours(policy: Policy) -> list[int]:
    """The arms that a policy of ours pulls along it."""
    seen: list[list[float]] = [[] for _ in range(ARMS)]
    sequence = []
    for turn, rewards in enumerate(table()):
        tried = [(len(item), math.fsum(item) / len(item) if item else 0.0) for item in seen]
        arm = int(
            np.argmax(policy.score(after(tried), columns(tried), CounterRNG(0, turn, "parity")))
        )
        seen[arm].append(rewards[arm])
        sequence.append(arm)
    return sequence


def test_ucb1_pulls_the_arms_that_river_pulls() -> None:
    sequence = chosen_by_ours(POLICIES["ucb1"]())
    assert sequence == chosen_by_river(bandit.UCB(delta=1, burn_in=1, seed=0))
    assert set(sequence) == set(range(ARMS))


def test_the_exploration_of_ucb1_is_twice_the_square_of_rivers_delta() -> None:
    river = bandit.UCB(delta=0.5, burn_in=1, seed=0)
    assert chosen_by_ours(POLICIES["ucb1"](exploration=0.5)) == chosen_by_river(river)


def test_greedy_pulls_the_arms_that_river_pulls() -> None:
    river = bandit.EpsilonGreedy(epsilon=0.0, burn_in=1, seed=0)
    assert chosen_by_ours(POLICIES["epsilon-greedy"](c=0.0)) == chosen_by_river(river)


def shares(choose: Callable[[int], int], count: int) -> np.ndarray:
    return np.bincount([choose(turn) for turn in range(4000)], minlength=count) / 4000


def test_thompson_chooses_each_arm_as_often_as_river_does() -> None:
    """Bernoulli rewards, 4,000 decisions on one history: four standard errors of a difference."""
    history = [(3, 8), (5, 9), (1, 2)]
    river = bandit.ThompsonSampling(reward_obj=proba.Beta(1, 1), seed=3)
    for arm, (successes, count) in enumerate(history):
        for trial in range(count):
            river.update(arm, trial < successes)
    tried = [(count, successes / count) for successes, count in history]
    arms, state = columns(tried), after(tried)
    policy = POLICIES["thompson-beta"]()

    ours = shares(
        lambda turn: int(np.argmax(policy.score(state, arms, CounterRNG(5, turn, "p")))), 3
    )
    theirs = shares(lambda turn: river.pull([0, 1, 2]), 3)
    assert ours == pytest.approx(theirs, abs=4 * math.sqrt(0.5 / 4000))


def test_with_a_beta_reward_river_leaves_out_the_bonus_that_the_formula_has() -> None:
    """100 trials of 0.55 and 2 of 0.5 at t = 102: UCB1 says 0.5 + sqrt(2 ln 102 / 2) is more than
    0.55 + sqrt(2 ln 102 / 100); river compares the modes alone and goes on with the first."""
    arms = columns([(100, 0.55), (2, 0.5)])
    scores = POLICIES["ucb1"]().score(PolicyContext(102.0), arms, CounterRNG(0, 0, "parity"))
    bonus = 2 * math.log(102)
    formula = [0.55 + math.sqrt(bonus / 100), 0.5 + math.sqrt(bonus / 2)]
    assert scores.tolist() == pytest.approx(formula, abs=1e-9)
    assert np.argmax(scores) == 1

    river = bandit.UCB(delta=1, reward_obj=proba.Beta(1, 1), seed=0)
    for arm, successes, count in ((0, 55, 100), (1, 1, 2)):
        for trial in range(count):
            river.update(arm, trial < successes)
    assert river.pull([0, 1]) == 0
