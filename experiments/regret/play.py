"""Play one bandit to the end, with a production policy and tracker or with a library."""

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
    """A simulated bandit: `means` (phases, n) of n arms, each phase `phase_trials` long.

    `noise` (trials,) is the random number of each trial, equal for all arms and policies: uniform
    for rewards of 0 or 1 (`sigma` None), else standard normal. `priors` and `features` (n, d) are
    given to the policy before the first trial.
    """

    means: FloatArray
    noise: FloatArray
    phase_trials: int
    sigma: float | None = None
    priors: Mapping[int, Prior] = field(default_factory=dict)
    features: FloatArray | None = None

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.noise)

    def means_at(self, trial: int) -> FloatArray:
        """Return the means (n,) at a trial."""
        found: FloatArray = self.means[trial // self.phase_trials]
        return found

    def reward(self, trial: int, arm: int) -> float:
        """Return the reward of an arm at a trial, in [0, 1]."""
        mean, noise = float(self.means_at(trial)[arm]), float(self.noise[trial])
        if self.sigma is None:
            return float(noise < mean)
        return min(max(mean + self.sigma * noise, 0.0), 1.0)


class BanditAgent(Protocol):
    """Chooses arms and learns from their rewards."""

    def choose(self, trial: int) -> int: ...

    def learn(self, trial: int, arm: int, reward: float) -> None: ...


class EsperAgent:
    """A policy with tracker and arm statistics, as in the fold."""

    def __init__(self, world: World, seed: int, policy: Policy) -> None:
        self.policy = policy
        self.seed = seed
        self.tracker = PerformanceTracker(discounting=policy.discounting)
        self.arm_stats = ArmStats.of(world.means.shape[1], {}, world.priors)
        self.features = world.features if policy.contextual else None
        self.model = LinearModel() if policy.contextual else None

    def policy_inputs(self) -> tuple[PolicyContext, ArmArrays]:
        """Return the inputs of the policy's score."""
        return self.arm_stats.for_policy(
            self.policy.discounting, self.tracker.trials, features=self.features, model=self.model
        )

    def choose(self, trial: int) -> int:
        """Return the arm with the best score."""
        state, arms = self.policy_inputs()
        return self.best_of(trial, self.policy.score(state, arms, random_of(self.seed, trial)))

    def best_of(self, trial: int, scores: FloatArray) -> int:
        """Return the arm with the best score; ties are broken at random, as in `SeedSelector`."""
        best = int(scores.argmax())
        ties = np.flatnonzero(scores == scores[best])
        if len(ties) == 1:
            return best
        return int(ties[int(uniform(self.seed, trial, "tie-break", 0) * len(ties))])

    def learn(self, trial: int, arm: int, reward: float) -> None:
        """Add the trial to tracker, arm statistics and model."""
        tried = HistoryKey(SITE, None, str(arm))
        if self.model is not None and self.features is not None:
            before = self.tracker.of(tried)
            self.model = self.model.after(
                self.features[arm].tolist(), reward, before.pulls if before else 0
            )
        self.tracker = self.tracker.after(SITE, 0, str(arm), TrialResult(reward=reward))
        self.arm_stats = self.arm_stats.with_history(arm, self.tracker.marginal[tried])


def random_of(seed: int, trial: int) -> CounterRNG:
    """Return the random numbers of one decision."""
    return CounterRNG(seed, trial, "blueprint")


class RiverAgent:
    """A policy of river; tries every arm once first."""

    def __init__(self, world: World, policy: bandit.base.Policy) -> None:
        self.policy = policy
        self.arms: list[int | str] = list(range(world.means.shape[1]))

    def choose(self, trial: int) -> int:
        """Return the arm that river pulls."""
        return int(self.policy.pull(self.arms))

    def learn(self, trial: int, arm: int, reward: float) -> None:
        """Update river's policy."""
        self.policy.update(arm, reward)  # type: ignore[no-untyped-call]


class MABWiserAgent:
    """A policy of MABWiser, which needs a reward of every arm before it can choose."""

    def __init__(self, world: World, seed: int, policy: object) -> None:
        self.arms = list(range(world.means.shape[1]))
        self.mab = MAB(self.arms, policy, seed=seed)
        self.first: list[float] = []

    def choose(self, trial: int) -> int:
        """Return every arm once, then the predicted arm."""
        return self.arms[trial] if trial < len(self.arms) else int(self.mab.predict())

    def learn(self, trial: int, arm: int, reward: float) -> None:
        """Update MABWiser's policy; the first trials are fitted together."""
        if trial >= len(self.arms):
            self.mab.partial_fit([arm], [reward])
            return
        self.first.append(reward)
        if len(self.first) == len(self.arms):
            self.mab.fit(self.arms, self.first)


LIBRARIES: Mapping[str, Callable[[World, int], BanditAgent]] = {
    "river-ucb1": lambda world, seed: RiverAgent(world, bandit.UCB(delta=1, burn_in=1, seed=seed)),
    "river-thompson": lambda world, seed: RiverAgent(
        world, bandit.ThompsonSampling(proba.Beta(1, 1), seed=seed)
    ),
    "mabwiser-ucb1": lambda world, seed: MABWiserAgent(world, seed, LearningPolicy.UCB1(alpha=1)),
    "mabwiser-thompson": lambda world, seed: MABWiserAgent(
        world, seed, LearningPolicy.ThompsonSampling()
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class PlayResult:
    """Cumulative regret (trials,), and seconds per trial for choosing and learning."""

    regret: FloatArray
    seconds: float


def play(world: World, agent: BanditAgent) -> PlayResult:
    """Play all trials with an agent."""
    chosen = []
    started = perf_counter()
    for trial in range(world.trials):
        arm = agent.choose(trial)
        agent.learn(trial, arm, world.reward(trial, arm))
        chosen.append(arm)
    seconds = (perf_counter() - started) / world.trials
    return PlayResult(_regret(world, chosen), seconds)


ELEMENTWISE = frozenset(
    {
        *("random", "ucb1", "kl-ucb", "thompson-beta", "thompson-gaussian", "performance"),
        *("sliding-ucb", "discounted-ucb", "sliding-thompson", "discounted-thompson"),
    }
)
"""Policies whose score of an arm depends only on its own column, the total and random numbers."""


def play_batch(worlds: Sequence[World], agents: Sequence[EsperAgent]) -> list[FloatArray]:
    """Play one world per agent, all with the same elementwise policy; return the regrets.

    Each agent has its own tracker. One call scores the columns of all agents, at the cost of one
    agent's call; separate calls give equal results, except for the random numbers.
    """
    policy, first = agents[0].policy, agents[0].seed
    chosen: list[list[int]] = [[] for _ in agents]
    for trial in range(worlds[0].trials):
        inputs = [agent.policy_inputs() for agent in agents]
        columns = ArmArrays(
            np.concatenate([arms.weight for _, arms in inputs]),
            np.concatenate([arms.mean for _, arms in inputs]),
            np.concatenate([arms.variance for _, arms in inputs]),
        )
        scores = policy.score(inputs[0][0], columns, random_of(first, trial))
        for index, (world, agent) in enumerate(zip(worlds, agents, strict=True)):
            count = len(inputs[index][1])
            arm = agent.best_of(trial, scores[index * count : (index + 1) * count])
            agent.learn(trial, arm, world.reward(trial, arm))
            chosen[index].append(arm)
    return [_regret(world, arms) for world, arms in zip(worlds, chosen, strict=True)]


def _regret(world: World, chosen: list[int]) -> FloatArray:
    """Return the cumulated best mean less the mean of the chosen arm, without the noise."""
    trials = np.arange(world.trials)
    means = world.means[trials // world.phase_trials]
    found: FloatArray = np.cumsum(means.max(axis=1) - means[trials, chosen])
    return found
