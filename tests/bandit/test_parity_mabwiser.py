"""The same histories give the same scores as MABWiser, except for arms it has not met at first."""

import math

import numpy as np
import pytest
from mabwiser.mab import MAB, LearningPolicy

from esper.bandit import POLICIES, CounterRNG, LinearModel
from tests.bandit.arms import RNG, after, columns

ARMS = 5


def history() -> tuple[list[int], list[float]]:
    """Which arm was pulled, and its reward: every arm at least once."""
    generator = np.random.default_rng(11)
    pulled = [*range(ARMS), *generator.integers(0, ARMS, 120).tolist()]
    return pulled, generator.uniform(0, 1, len(pulled)).tolist()


def tried(pulled: list[int], rewards: list[float], arms: int = ARMS) -> list[tuple[float, float]]:
    of_arm = [
        [reward for arm, reward in zip(pulled, rewards, strict=True) if arm == index]
        for index in range(arms)
    ]
    return [(len(item), math.fsum(item) / len(item) if item else 0.0) for item in of_arm]


def fitted(policy: object, rewards: list[float], step: int = 1) -> MAB:
    """MABWiser after the whole history, told in pieces."""
    pulled, _ = history()
    mab = MAB(list(range(ARMS)), policy, seed=2)
    mab.fit(pulled[:ARMS], rewards[:ARMS])
    for index in range(ARMS, len(pulled), step):
        mab.partial_fit(pulled[index : index + step], rewards[index : index + step])
    return mab


@pytest.mark.parametrize("alpha", [0.25, 1.0, 1.5])
def test_ucb1_scores_as_mabwiser_does(alpha: float) -> None:
    expected = fitted(LearningPolicy.UCB1(alpha=alpha), history()[1]).predict_expectations()
    arms = tried(*history())
    policy = POLICIES["ucb1"](exploration=2 * alpha * alpha)
    found = policy.score(after(arms), columns(arms), RNG).tolist()
    assert found == pytest.approx([expected[arm] for arm in range(ARMS)], abs=1e-9)


def test_an_arm_absent_at_first_is_to_be_tried_first_and_mabwiser_never_does() -> None:
    """UCB1 begins with each arm once: the formula's value before that is infinite, not 0."""
    pulled, rewards = [0, 0, 1, 1], [0.6, 0.5, 0.4, 0.5]
    arms = tried(pulled, rewards, arms=3)
    found = POLICIES["ucb1"]().score(after(arms), columns(arms), RNG)
    assert found[2] == math.inf

    mab = MAB([0, 1, 2], LearningPolicy.UCB1(alpha=1), seed=2)
    mab.fit(pulled, rewards)
    chosen = []
    for _ in range(100):
        arm = mab.predict()
        mab.partial_fit([arm], [0.0])
        chosen.append(arm)
    assert mab.predict_expectations()[2] == 0
    assert 2 not in chosen


def test_softmax_chooses_with_the_probabilities_that_mabwiser_computes() -> None:
    """Both at temperature 0.2; 4,000 decisions, four standard errors."""
    mab = fitted(LearningPolicy.Softmax(tau=0.2), history()[1], step=200)
    expected = [mab._imp.arm_to_expectation[arm] for arm in range(ARMS)]
    arms = tried(*history())
    state, of_arms, policy = after(arms), columns(arms), POLICIES["performance"](0.2)
    chosen = [
        int(np.argmax(policy.score(state, of_arms, CounterRNG(6, turn, "p"))))
        for turn in range(4000)
    ]
    shares = np.bincount(chosen, minlength=ARMS) / len(chosen)
    assert shares == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 4000))


def test_thompson_draws_from_the_posterior_that_mabwiser_keeps() -> None:
    """Successes and failures alone, for it refuses others; the means of 4,000 draws."""
    pulled, rewards = history()
    won_or_lost = [float(reward < 0.4) for reward in rewards]
    mab = fitted(LearningPolicy.ThompsonSampling(), won_or_lost, step=200)
    won, lost = mab._imp.arm_to_success_count, mab._imp.arm_to_fail_count
    expected = [won[arm] / (won[arm] + lost[arm]) for arm in range(ARMS)]
    arms = tried(pulled, won_or_lost)
    state, of_arms, policy = after(arms), columns(arms), POLICIES["thompson-beta"]()
    draws = np.array(
        [policy.score(state, of_arms, CounterRNG(7, turn, "p")) for turn in range(4000)]
    )
    assert draws.mean(axis=0) == pytest.approx(
        expected, abs=4 * draws.std(axis=0).max() / math.sqrt(4000)
    )


def test_the_linear_model_has_the_weights_of_mabwisers_ridge_regression() -> None:
    """One arm, l2_lambda 1; rewards less 0.5, from which ours start."""
    generator = np.random.default_rng(13)
    x, rewards = generator.uniform(0, 1, (40, 6)), generator.uniform(0, 1, 40)
    mab = MAB([0], LearningPolicy.LinTS(alpha=1.0, l2_lambda=1.0), seed=2)
    mab.fit([0] * 40, rewards - 0.5, x)
    model = LinearModel()
    for features, reward in zip(x.tolist(), rewards.tolist(), strict=True):
        model = model.after(features, reward)
    found = model.weights([0.0] * 6, sigma=1.0, prior_sigma=1.0)
    assert found == pytest.approx(mab._imp.arm_to_model[0].beta.tolist(), abs=1e-9)
