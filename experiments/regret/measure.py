"""Regret of every policy on bandits whose best arm is known, beside river and MABWiser.

Each (bandit, policy) is played with the same seeds and random rewards. Figures are means over
seeds; their spread is that of 200 bootstrap resamples of the seeds.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from benchmarks.result import Figure, Measurement, figure, ratio, rounded
from benchmarks.timing import scaled
from esper.bandit import policy_for
from esper.topics.models import PolicySpec
from experiments.regret.play import (
    ELEMENTWISE,
    LIBRARIES,
    BanditAgent,
    EsperAgent,
    FloatArray,
    World,
    play,
    play_batch,
)
from experiments.regret.setups import (
    EXPERIMENTS,
    RATIOS,
    REFERENCES,
    TIMED,
    TIMED_SEEDS,
    at_most,
    checkpoint_key,
)
from experiments.regret.worlds import WORLDS

SEEDS: Final = 200
CHUNK: Final = 25
RESAMPLES: Final = 200
PROCESSES: Final = 2
POINTS: Final = 25
"""Points of a curve, evenly spaced from the first trial to the last."""

QUICK_SEEDS: Final = 4
QUICK_TRIALS: Final = 60

Regrets: TypeAlias = dict[tuple[str, str], FloatArray]
"""Cumulative regret (seeds, trials) by bandit and policy."""


class _Job(NamedTuple):
    """A chunk of seeds of one policy on one bandit."""

    world: str
    agent: str
    spec: PolicySpec | None
    trials: int
    seeds: range


def run(quick: bool = False) -> Measurement:
    """Play all experiments; `quick`: a few trials of a few seeds."""
    seeds, longest = (
        (QUICK_SEEDS, QUICK_TRIALS) if quick else (SEEDS, max(c.trials for c in EXPERIMENTS))
    )
    jobs = [
        _Job(experiment.world, agent, spec, min(experiment.trials, longest), chunk)
        for experiment in EXPERIMENTS
        for agent, spec in experiment.agents.items()
        for chunk in _chunks(seeds)
    ]
    regrets = _played(jobs)
    return Measurement(
        parameters={"seeds": seeds, "resamples": RESAMPLES, "points": POINTS},
        figures=(*_comparisons(regrets), *_checkpoints(regrets), *_times(min(seeds, TIMED_SEEDS))),
        curves={f"{world}/{agent}": _curve(values) for (world, agent), values in regrets.items()},
    )


def _chunks(seeds: int) -> list[range]:
    return [range(first, min(first + CHUNK, seeds)) for first in range(0, seeds, CHUNK)]


def _played(jobs: Sequence[_Job]) -> Regrets:
    """Play jobs in two processes with a progress line; return the regrets in seed order."""
    done: dict[int, FloatArray] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        futures = {pool.submit(_regrets_of, job): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            print(f"\rregret: {len(done)} of {len(jobs)} played", end="", file=sys.stderr)
    print(file=sys.stderr)
    grouped: dict[tuple[str, str], list[FloatArray]] = {}
    for index, job in enumerate(jobs):
        grouped.setdefault((job.world, job.agent), []).append(done[index])
    return {name: np.concatenate(parts) for name, parts in grouped.items()}


def _regrets_of(job: _Job) -> FloatArray:
    """Return the regret (seeds, trials) of a job."""
    worlds = [WORLDS[job.world](seed, job.trials) for seed in job.seeds]
    if job.agent in ELEMENTWISE and job.spec is not None:
        policy = policy_for(job.spec)
        agents = [
            EsperAgent(world, seed, policy) for world, seed in zip(worlds, job.seeds, strict=True)
        ]
        return np.array(play_batch(worlds, agents))
    return np.array(
        [
            play(world, _agent(job.agent, job.spec, world, seed)).regret
            for world, seed in zip(worlds, job.seeds, strict=True)
        ]
    )


def _agent(name: str, spec: PolicySpec | None, world: World, seed: int) -> BanditAgent:
    return (
        LIBRARIES[name](world, seed) if spec is None else EsperAgent(world, seed, policy_for(spec))
    )


def _means(regrets: FloatArray, trial: int) -> list[float]:
    """Return the mean regret up to a trial, for the same resamples of seeds in every call."""
    count, trials = regrets.shape
    resamples = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    means: list[float] = regrets[:, min(trial, trials) - 1][resamples].mean(axis=1).tolist()
    return means


def _comparisons(regrets: Regrets) -> list[Figure]:
    against_references = [
        ratio(
            f"{agent}-over-reference",
            f"Bernoulli arms, 1,000 trials: {agent} ÷ reference implementation",
            ("ours", _means(regrets["bernoulli", agent], 1000)),
            ("reference", [reference] * RESAMPLES),
            goal=at_most(1.1),
        )
        for agent, reference in REFERENCES.items()
    ]
    return against_references + [
        ratio(
            comparison.key,
            comparison.title,
            ("/".join(comparison.over), _means(regrets[comparison.over], comparison.trial)),
            ("/".join(comparison.under), _means(regrets[comparison.under], comparison.trial)),
            goal=comparison.goal,
        )
        for comparison in RATIOS
    ]


def _checkpoints(regrets: Regrets) -> list[Figure]:
    return [
        figure(
            checkpoint_key(experiment.world, agent, trial),
            f"{experiment.world}, {trial:,} trials: {agent}",
            "regret",
            _means(regrets[experiment.world, agent], trial),
        )
        for experiment in EXPERIMENTS
        for agent in experiment.agents
        for trial in experiment.checkpoints
    ]


def _times(seeds: int) -> list[Figure]:
    """Time choosing and learning with five arms, one policy at a time in this process."""
    worlds = [WORLDS[TIMED.world](seed, TIMED.trials) for seed in range(seeds)]
    timed = {
        name: [play(world, _agent(name, spec, world, 0)).seconds for world in worlds]
        for name, spec in TIMED.agents.items()
    }
    return [
        figure(f"time-{name}", f"choose and learn: {name}", "µs", scaled(seconds, 1e6))
        for name, seconds in timed.items()
    ]


def _curve(regrets: FloatArray) -> tuple[float, ...]:
    mean = regrets.mean(axis=0)
    indices = np.linspace(0, len(mean), POINTS + 1)[1:].astype(int) - 1
    return tuple(rounded(float(value)) for value in mean[indices])
