"""Playing one bandit to the end: production policies on the production tracker, or a library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, TypeAlias

import numpy as np
from mabwiser.mab import MAB, LearningPolicy
from numpy.typing import NDArray
from river import bandit, proba

from esper.bandit import (
    ArmArrays,
    ArmStats,
    CounterRNG,
    HistoryKey,
    LinearModel,
    PerformanceTracker,
    Policy,
    PolicyContext,
    Prior,
    TrialResult,
    uniform,
)

FloatArray: TypeAlias = NDArray[np.float64]

SITE = "site"


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """A bandit as it really is: `means` (phases, n), each phase `phase_trials` long.

    `noise` (trials,) is what chance adds at each trial, whichever arm is tried, so that policies
    meet the same luck: uniform numbers where rewards are 0 or 1 (`sigma` None), else standard
    normal ones. `priors` and `features` (n, d) are what is known beforehand.
    """

    means: FloatArray
    noise: FloatArray
    phase_trials: int
    sigma: float | None = None
    priors: Mapping[int, Prior] = field(default_factory=dict)
    features: FloatArray | None = None

    @property
    def trials(self) -> int:
        """How many trials it lasts."""
        return len(self.noise)

    def means_at(self, trial: int) -> FloatArray:
        """The means (n,) as of a trial."""
        found: FloatArray = self.means[trial // self.phase_trials]
        return found

    def reward(self, trial: int, arm: int) -> float:
        """What an arm yields at a trial, in [0, 1]."""
        mean, chance = float(self.means_at(trial)[arm]), float(self.noise[trial])
        if self.sigma is None:
            return float(chance < mean)
        return min(max(mean + self.sigma * chance, 0.0), 1.0)


class Player(Protocol):
    """Whatever chooses arms and is told what they yield."""

    def choose(self, trial: int) -> int: ...

    def learn(self, trial: int, arm: int, reward: float) -> None: ...


class Ours:
    """A policy with tracker and standings, as the fold has them."""

    def __init__(self, world: World, seed: int, policy: Policy) -> None:
        self.policy = policy
        self.seed = seed
        self.tracker = PerformanceTracker(discounting=policy.discounting)
        self.arm_stats = ArmStats.of(world.means.shape[1], {}, world.priors)
        self.features = world.features if policy.contextual else None
        self.model = LinearModel() if policy.contextual else None

    def seen(self) -> tuple[PolicyContext, ArmArrays]:
        """What the policy is given."""
        return self.arm_stats.seen_by(
            self.policy.discounting, self.tracker.trials, features=self.features, model=self.model
        )

    def choose(self, trial: int) -> int:
        """The arm of the best score."""
        state, arms = self.seen()
        return self.first(trial, self.policy.score(state, arms, draws(self.seed, trial)))

    def first(self, trial: int, scores: FloatArray) -> int:
        """The arm of the best of these scores; chance decides, as in `SeedSelector`."""
        best = int(scores.argmax())
        ties = np.flatnonzero(scores == scores[best])
        if len(ties) == 1:
            return best
        return int(ties[int(uniform(self.seed, trial, "tie-break", 0) * len(ties))])

    def learn(self, trial: int, arm: int, reward: float) -> None:
        """Add the trial to tracker, standings and model."""
        tried = HistoryKey(SITE, None, str(arm))
        if self.model is not None and self.features is not None:
            before = self.tracker.of(tried)
            self.model = self.model.after(
                self.features[arm].tolist(), reward, before.pulls if before else 0
            )
        self.tracker = self.tracker.after(SITE, 0, str(arm), TrialResult(reward=reward))
        self.arm_stats = self.arm_stats.with_history(arm, self.tracker.marginal[tried])


def draws(seed: int, trial: int) -> CounterRNG:
    """The random numbers of one decision."""
    return CounterRNG(seed, trial, "blueprint")


class River:
    """A policy of river; every arm once first."""

    def __init__(self, world: World, policy: bandit.base.Policy) -> None:
        self.policy = policy
        self.arms: list[int | str] = list(range(world.means.shape[1]))

    def choose(self, trial: int) -> int:
        """The arm that it pulls."""
        return int(self.policy.pull(self.arms))

    def learn(self, trial: int, arm: int, reward: float) -> None:
        """Tell it."""
        self.policy.update(arm, reward)  # type: ignore[no-untyped-call]


class MABWiser:
    """A policy of MABWiser, which must have met every arm before it chooses."""

    def __init__(self, world: World, seed: int, policy: object) -> None:
        self.arms = list(range(world.means.shape[1]))
        self.mab = MAB(self.arms, policy, seed=seed)
        self.first: list[float] = []

    def choose(self, trial: int) -> int:
        """The arms in turn, then what it predicts."""
        return self.arms[trial] if trial < len(self.arms) else int(self.mab.predict())

    def learn(self, trial: int, arm: int, reward: float) -> None:
        """Tell it, of the first trials together."""
        if trial >= len(self.arms):
            self.mab.partial_fit([arm], [reward])
            return
        self.first.append(reward)
        if len(self.first) == len(self.arms):
            self.mab.fit(self.arms, self.first)


LIBRARIES: Mapping[str, Callable[[World, int], Player]] = {
    "river-ucb1": lambda world, seed: River(world, bandit.UCB(delta=1, burn_in=1, seed=seed)),
    "river-thompson": lambda world, seed: River(
        world, bandit.ThompsonSampling(proba.Beta(1, 1), seed=seed)
    ),
    "mabwiser-ucb1": lambda world, seed: MABWiser(world, seed, LearningPolicy.UCB1(alpha=1)),
    "mabwiser-thompson": lambda world, seed: MABWiser(
        world, seed, LearningPolicy.ThompsonSampling()
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """Cumulative regret (trials,), and seconds a trial took to choose and learn."""

    regret: FloatArray
    seconds: float


def play(world: World, player: Player) -> Played:
    """Let a player play to the end."""
    chosen = []
    started = perf_counter()
    for trial in range(world.trials):
        arm = player.choose(trial)
        player.learn(trial, arm, world.reward(trial, arm))
        chosen.append(arm)
    seconds = (perf_counter() - started) / world.trials
    return Played(_regret(world, chosen), seconds)


ELEMENTWISE = frozenset(
    {
        *("random", "ucb1", "kl-ucb", "thompson-beta", "thompson-gaussian", "performance"),
        *("sliding-ucb", "discounted-ucb", "sliding-thompson", "discounted-thompson"),
    }
)
"""Policies whose score of an arm follows from its own column, the total and the random numbers."""


def play_together(worlds: Sequence[World], players: Sequence[Ours]) -> list[FloatArray]:
    """Let players of one elementwise policy play, each its own world; return their regrets.

    Each has its own tracker. The columns of all are scored by one call, which costs as much as that
    for one of them; a call for each would give the same, but for the random numbers.
    """
    policy, first = players[0].policy, players[0].seed
    chosen: list[list[int]] = [[] for _ in players]
    for trial in range(worlds[0].trials):
        seen = [player.seen() for player in players]
        columns = ArmArrays(
            np.concatenate([arms.weight for _, arms in seen]),
            np.concatenate([arms.mean for _, arms in seen]),
            np.concatenate([arms.variance for _, arms in seen]),
        )
        scores = policy.score(seen[0][0], columns, draws(first, trial))
        for place, (world, player) in enumerate(zip(worlds, players, strict=True)):
            count = len(seen[place][1])
            arm = player.first(trial, scores[place * count : (place + 1) * count])
            player.learn(trial, arm, world.reward(trial, arm))
            chosen[place].append(arm)
    return [_regret(world, arms) for world, arms in zip(worlds, chosen, strict=True)]


def _regret(world: World, chosen: list[int]) -> FloatArray:
    """The best arm's mean less that of the arm tried, summed: what chance adds is left out."""
    trials = np.arange(world.trials)
    means = world.means[trials // world.phase_trials]
    found: FloatArray = np.cumsum(means.max(axis=1) - means[trials, chosen])
    return found
