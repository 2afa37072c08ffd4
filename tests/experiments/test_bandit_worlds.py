"""The bandit simulator: regret, rewards, and equal results of batched and single play."""

import numpy as np
import pytest

from esper.bandit import POLICIES, policy_for
from esper.topics.models import PolicySpec
from experiments.regret.play import ELEMENTWISE, LIBRARIES, EsperAgent, World, play, play_batch
from experiments.regret.worlds import DRIFTING, PHASE_TRIALS, WORLDS

TRIALS = 60


class Fixed:
    """An agent that always chooses one arm and records its rewards."""

    def __init__(self, arm: int) -> None:
        self.arm = arm
        self.rewards: list[float] = []

    def choose(self, trial: int) -> int:
        return self.arm

    def learn(self, trial: int, arm: int, reward: float) -> None:
        self.rewards.append(reward)


def world(*means: float, sigma: float | None = None) -> World:
    noise = np.random.default_rng(3).random(TRIALS)
    return World(np.array([means]), noise, TRIALS, sigma)


def test_regret_is_zero_for_the_best_arm_and_linear_for_another() -> None:
    assert play(world(0.2, 0.7), Fixed(1)).regret.tolist() == [0.0] * TRIALS
    regret = play(world(0.2, 0.7), Fixed(0)).regret
    assert regret == pytest.approx(np.arange(1, TRIALS + 1) * 0.5)


def test_rewards_of_zero_or_one_have_the_mean_of_the_arm() -> None:
    agent = Fixed(0)
    long = World(np.array([[0.3]]), np.random.default_rng(1).random(5000), 5000)
    play(long, agent)
    assert set(agent.rewards) == {0.0, 1.0}
    assert np.mean(agent.rewards) == pytest.approx(0.3, abs=0.03)


def test_gaussian_rewards_stay_in_their_range() -> None:
    agent = Fixed(0)
    play(World(np.array([[0.95]]), np.linspace(-9, 9, TRIALS), TRIALS, 0.5), agent)
    assert min(agent.rewards) == 0.0
    assert max(agent.rewards) == 1.0


def test_drifting_arms_change_the_best_arm_in_every_phase() -> None:
    drifting = WORLDS["drift"](0, 3 * PHASE_TRIALS)
    best = [int(drifting.means_at(phase * PHASE_TRIALS).argmax()) for phase in range(3)]
    assert len(set(best)) == 3
    assert all(sorted(means) == sorted(DRIFTING) for means in drifting.means.tolist())


def test_equal_seeds_give_equal_noise() -> None:
    first, again, other = (WORLDS["gaussian"](seed, TRIALS) for seed in (5, 5, 6))
    assert first.noise.tolist() == again.noise.tolist() != other.noise.tolist()


@pytest.mark.parametrize("name", ["ucb1", "kl-ucb", "sliding-ucb", "discounted-ucb"])
def test_batched_play_equals_single_play(name: str) -> None:
    """Random numbers differ by the index of the arm, so only policies without them are equal."""
    policy = policy_for(PolicySpec(name=name))
    seeds = (3, 4, 5)
    worlds = [WORLDS["gaussian"](seed, TRIALS) for seed in seeds]
    batched = play_batch(
        worlds, [EsperAgent(world, seed, policy) for world, seed in zip(worlds, seeds, strict=True)]
    )
    single = [
        play(world, EsperAgent(world, seed, policy)).regret
        for world, seed in zip(worlds, seeds, strict=True)
    ]
    assert [regret.tolist() for regret in batched] == [regret.tolist() for regret in single]


def test_batched_policies_are_all_but_those_that_score_arms_together() -> None:
    assert POLICIES.keys() - ELEMENTWISE == {"epsilon-greedy", "linear-thompson"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_tries_every_arm(name: str) -> None:
    arms = world(0.3, 0.5, 0.7)
    regret = play(arms, LIBRARIES[name](arms, 0)).regret
    assert 0.0 < regret[-1] < 0.4 * TRIALS


def test_memory_agrees_with_the_means_of_a_similar_family_only() -> None:
    def agreement(name: str) -> float:
        found = []
        for seed in range(6):
            remembered = WORLDS[name](seed, TRIALS)
            arms = list(remembered.priors)
            believed = [prior.mean for prior in remembered.priors.values()]
            found.append(np.corrcoef(remembered.means[0][arms], believed)[0, 1])
        return float(np.mean(found))

    assert agreement("memory-like") > 0.8
    assert abs(agreement("memory-unlike")) < 0.4
    assert not WORLDS["memory-none"](0, TRIALS).priors
