"""The simulator of bandits: what it counts as lost, and that playing together is playing alone."""

import numpy as np
import pytest

from benchmarks.bandit_play import ELEMENTWISE, LIBRARIES, Ours, World, play, play_together
from benchmarks.bandit_worlds import DRIFTING, PHASE_TRIALS, WORLDS
from esper.bandit import POLICIES, policy_for
from esper.topics.models import PolicySpec

TRIALS = 60


class Fixed:
    """A player that always tries one arm, and remembers what it yields."""

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


def test_the_best_arm_loses_nothing_and_another_its_distance_each_time() -> None:
    assert play(world(0.2, 0.7), Fixed(1)).regret.tolist() == [0.0] * TRIALS
    lost = play(world(0.2, 0.7), Fixed(0)).regret
    assert lost == pytest.approx(np.arange(1, TRIALS + 1) * 0.5)


def test_rewards_of_zero_or_one_have_the_mean_of_the_arm() -> None:
    player = Fixed(0)
    long = World(np.array([[0.3]]), np.random.default_rng(1).random(5000), 5000)
    play(long, player)
    assert set(player.rewards) == {0.0, 1.0}
    assert np.mean(player.rewards) == pytest.approx(0.3, abs=0.03)


def test_gaussian_rewards_stay_in_their_range() -> None:
    player = Fixed(0)
    play(World(np.array([[0.95]]), np.linspace(-9, 9, TRIALS), TRIALS, 0.5), player)
    assert min(player.rewards) == 0.0
    assert max(player.rewards) == 1.0


def test_drifting_arms_change_places_and_the_best_is_another_one() -> None:
    drifting = WORLDS["drift"](0, 3 * PHASE_TRIALS)
    best = [int(drifting.means_at(phase * PHASE_TRIALS).argmax()) for phase in range(3)]
    assert len(set(best)) == 3
    assert all(sorted(means) == sorted(DRIFTING) for means in drifting.means.tolist())


def test_all_policies_meet_the_same_luck() -> None:
    first, again, other = (WORLDS["gaussian"](seed, TRIALS) for seed in (5, 5, 6))
    assert first.noise.tolist() == again.noise.tolist() != other.noise.tolist()


@pytest.mark.parametrize("name", ["ucb1", "kl-ucb", "sliding-ucb", "discounted-ucb"])
def test_playing_together_is_playing_alone(name: str) -> None:
    """To the bit where no random numbers are drawn; those differ by the place of the arm."""
    policy = policy_for(PolicySpec(name=name))
    seeds = (3, 4, 5)
    worlds = [WORLDS["gaussian"](seed, TRIALS) for seed in seeds]
    together = play_together(
        worlds, [Ours(each, seed, policy) for each, seed in zip(worlds, seeds, strict=True)]
    )
    alone = [
        play(each, Ours(each, seed, policy)).regret
        for each, seed in zip(worlds, seeds, strict=True)
    ]
    assert [each.tolist() for each in together] == [each.tolist() for each in alone]


def test_what_may_be_played_together_sees_nothing_but_its_own_column() -> None:
    assert POLICIES.keys() - ELEMENTWISE == {"epsilon-greedy", "linear-thompson"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_tries_every_arm(name: str) -> None:
    arms = world(0.3, 0.5, 0.7)
    regret = play(arms, LIBRARIES[name](arms, 0)).regret
    assert 0.0 < regret[-1] < 0.4 * TRIALS


def test_memory_of_a_like_family_knows_the_good_blueprints_and_of_an_unlike_one_others() -> None:
    def agreement(name: str) -> float:
        found = []
        for seed in range(6):
            remembered = WORLDS[name](seed, TRIALS)
            places = list(remembered.priors)
            believed = [prior.mean for prior in remembered.priors.values()]
            found.append(np.corrcoef(remembered.means[0][places], believed)[0, 1])
        return float(np.mean(found))

    assert agreement("memory-like") > 0.8
    assert abs(agreement("memory-unlike")) < 0.4
    assert not WORLDS["memory-none"](0, TRIALS).priors
