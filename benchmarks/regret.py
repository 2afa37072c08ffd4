"""Regret of every policy on bandits whose best arm is known, beside river and MABWiser.

Each (bandit, policy) is played by as many seeds, all policies meeting the same luck; means are over
seeds, and their spread that of 200 resamples of the seeds (bootstrap).
"""

import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from benchmarks.bandit_play import (
    ELEMENTWISE,
    LIBRARIES,
    FloatArray,
    Ours,
    Player,
    World,
    play,
    play_together,
)
from benchmarks.bandit_worlds import GAUSSIAN, SIGMA, WORLDS
from benchmarks.result import Figure, Goal, Measured, figure, ratio, rounded
from benchmarks.timing import scaled
from esper.bandit import policy_for
from esper.topics.models import PolicySpec

SEEDS: Final = 200
CHUNK: Final = 25
RESAMPLES: Final = 200
PROCESSES: Final = 2
POINTS: Final = 25
"""Points of a curve, evenly spaced from the first trial to the last."""

QUICK_SEEDS: Final = 4
QUICK_TRIALS: Final = 60

EARLY: Final = 50
"""Trials after which memory must have paid."""

REFERENCES: Final = {"random": 180.0, "ucb1": 85.0, "kl-ucb": 35.0, "thompson-beta": 32.0}
"""Regret of reference implementations after 1,000 trials of the Bernoulli bandit."""

WINDOW: Final = {"window": 825.0}
"""4 sqrt(T ln T) for T = 5,000, as Garivier and Moulines have it."""

LINEAR: Final = PolicySpec(name="linear-thompson", params={"sigma": SIGMA})


def _named(*names: str) -> dict[str, PolicySpec | None]:
    return {name: None if name in LIBRARIES else PolicySpec(name=name) for name in names}


@dataclass(frozen=True, slots=True)
class Contest:
    """A bandit, how long it is played, by whom, and after how many trials regret is stated.

    A player is one of ours by its spec, or a library's (None).
    """

    world: str
    trials: int
    players: Mapping[str, PolicySpec | None]
    stated: tuple[int, ...]


CONTESTS: Final = (
    Contest("bernoulli", 5000, _named("ucb1", "kl-ucb", "thompson-beta"), (1000, 5000)),
    Contest(
        "bernoulli",
        1000,
        _named(
            *("random", "thompson-gaussian", "epsilon-greedy", "performance"),
            *("river-ucb1", "river-thompson", "mabwiser-ucb1", "mabwiser-thompson"),
        ),
        (1000,),
    ),
    Contest(
        "gaussian",
        1000,
        {**_named("random", "ucb1", "kl-ucb", "thompson-beta"), "thompson-gaussian": GAUSSIAN},
        (1000,),
    ),
    Contest(
        "drift",
        1200,
        _named(
            *("random", "ucb1", "sliding-ucb", "discounted-ucb"),
            *("thompson-beta", "sliding-thompson", "discounted-thompson"),
        ),
        (1200,),
    ),
    Contest(
        "switch",
        5000,
        {
            **_named("ucb1", "thompson-beta"),
            "sliding-ucb": PolicySpec(name="sliding-ucb", params=WINDOW),
            "sliding-thompson": PolicySpec(name="sliding-thompson", params=WINDOW),
        },
        (1000, 5000),
    ),
    Contest("many", 150, {**_named("random", "ucb1"), "thompson-gaussian": GAUSSIAN}, (150,)),
    Contest(
        "many-priors",
        150,
        {**_named("ucb1", "thompson-beta"), "thompson-gaussian": GAUSSIAN},
        (150,),
    ),
    *(
        Contest(
            world,
            300,
            {**_named("random"), "thompson-gaussian": GAUSSIAN, "linear-thompson": LINEAR},
            (300,),
        )
        for world in ("context", "context-none")
    ),
    *(
        Contest(world, 200, {"thompson-gaussian": GAUSSIAN}, (EARLY, 200))
        for world in ("memory-none", "memory-like", "memory-unlike")
    ),
)

TIMED: Final = Contest(
    "bernoulli",
    300,
    _named(
        *("random", "ucb1", "kl-ucb", "thompson-beta", "thompson-gaussian", "epsilon-greedy"),
        *("performance", "sliding-ucb", "sliding-thompson"),
        *("river-ucb1", "river-thompson", "mabwiser-ucb1", "mabwiser-thompson"),
    ),
    (),
)
TIMED_SEEDS: Final = 10

Regrets: TypeAlias = dict[tuple[str, str], FloatArray]
"""Cumulative regret (seeds, trials) by bandit and player."""


class _Job(NamedTuple):
    """Some seeds of one player at one bandit."""

    world: str
    player: str
    spec: PolicySpec | None
    trials: int
    seeds: range


def run(quick: bool = False) -> Measured:
    """Play everything; `quick` a few trials of a few seeds."""
    seeds, longest = (
        (QUICK_SEEDS, QUICK_TRIALS) if quick else (SEEDS, max(c.trials for c in CONTESTS))
    )
    jobs = [
        _Job(contest.world, player, spec, min(contest.trials, longest), chunk)
        for contest in CONTESTS
        for player, spec in contest.players.items()
        for chunk in _chunks(seeds)
    ]
    regrets = _played(jobs)
    return Measured(
        parameters={"seeds": seeds, "resamples": RESAMPLES, "points": POINTS},
        figures=(*_comparisons(regrets), *_stated(regrets), *_times(min(seeds, TIMED_SEEDS))),
        curves={f"{world}/{player}": _curve(each) for (world, player), each in regrets.items()},
    )


def _chunks(seeds: int) -> list[range]:
    return [range(first, min(first + CHUNK, seeds)) for first in range(0, seeds, CHUNK)]


def _played(jobs: Sequence[_Job]) -> Regrets:
    """Play jobs in two processes, with a line of progress, and put the seeds in order."""
    done: dict[int, FloatArray] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        futures = {pool.submit(_regrets_of, job): place for place, job in enumerate(jobs)}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            print(f"\rregret: {len(done)} of {len(jobs)} played", end="", file=sys.stderr)
    print(file=sys.stderr)
    grouped: dict[tuple[str, str], list[FloatArray]] = {}
    for place, job in enumerate(jobs):
        grouped.setdefault((job.world, job.player), []).append(done[place])
    return {name: np.concatenate(parts) for name, parts in grouped.items()}


def _regrets_of(job: _Job) -> FloatArray:
    """Return the regret (seeds, trials) of a job."""
    worlds = [WORLDS[job.world](seed, job.trials) for seed in job.seeds]
    if job.player in ELEMENTWISE and job.spec is not None:
        policy = policy_for(job.spec)
        players = [Ours(world, seed, policy) for world, seed in zip(worlds, job.seeds, strict=True)]
        return np.array(play_together(worlds, players))
    return np.array(
        [
            play(world, _player(job.player, job.spec, world, seed)).regret
            for world, seed in zip(worlds, job.seeds, strict=True)
        ]
    )


def _player(name: str, spec: PolicySpec | None, world: World, seed: int) -> Player:
    return LIBRARIES[name](world, seed) if spec is None else Ours(world, seed, policy_for(spec))


def _means(regrets: FloatArray, trial: int) -> list[float]:
    """Return the mean regret up to a trial in each resample of the seeds, the same for all."""
    count, trials = regrets.shape
    chosen = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    means: list[float] = regrets[:, min(trial, trials) - 1][chosen].mean(axis=1).tolist()
    return means


class _Comparison(NamedTuple):
    """The regret of one player over that of another after so many trials, and what it may be."""

    key: str
    what: str
    over: tuple[str, str]
    under: tuple[str, str]
    trial: int
    goal: Goal


def _at_most(limit: float) -> Goal:
    return Goal(sense="at most", limit=limit)


SURELY_LESS: Final = Goal(sense="at most", limit=1.0, of="worst")
"""Less in every resample."""

COMPARISONS: Final = (
    _Comparison(
        "drift-ucb",
        "drifting arms: sliding window ÷ UCB1",
        ("drift", "sliding-ucb"),
        ("drift", "ucb1"),
        1200,
        SURELY_LESS,
    ),
    _Comparison(
        "drift-thompson",
        "drifting arms: sliding window ÷ Thompson sampling",
        ("drift", "sliding-thompson"),
        ("drift", "thompson-beta"),
        1200,
        SURELY_LESS,
    ),
    *(
        _Comparison(
            f"switch-{kind}",
            f"an arm that is the best for a while: sliding window ÷ {stationary}",
            ("switch", f"sliding-{kind}"),
            ("switch", stationary),
            5000,
            SURELY_LESS,
        )
        for kind, stationary in (("ucb", "ucb1"), ("thompson", "thompson-beta"))
    ),
    _Comparison(
        "context-informative",
        "features that say what arms are worth: contextual ÷ not",
        ("context", "linear-thompson"),
        ("context", "thompson-gaussian"),
        300,
        SURELY_LESS,
    ),
    _Comparison(
        "context-uninformative",
        "features that say nothing: contextual ÷ not",
        ("context-none", "linear-thompson"),
        ("context-none", "thompson-gaussian"),
        300,
        _at_most(1.1),
    ),
    _Comparison(
        "priors-many",
        "10,000 arms: with priors ÷ without",
        ("many-priors", "thompson-gaussian"),
        ("many", "thompson-gaussian"),
        150,
        SURELY_LESS,
    ),
    _Comparison(
        "memory-like",
        f"memory of a like family ÷ none, first {EARLY} trials",
        ("memory-like", "thompson-gaussian"),
        ("memory-none", "thompson-gaussian"),
        EARLY,
        _at_most(0.5),
    ),
    *(
        _Comparison(
            f"memory-unlike-{trial}",
            f"memory of an unlike family ÷ none, first {trial} trials",
            ("memory-unlike", "thompson-gaussian"),
            ("memory-none", "thompson-gaussian"),
            trial,
            _at_most(1.15),
        )
        for trial in (EARLY, 200)
    ),
)


def _comparisons(regrets: Regrets) -> list[Figure]:
    against_references = [
        ratio(
            f"{player}-over-reference",
            f"Bernoulli arms, 1,000 trials: {player} ÷ reference implementation",
            ("ours", _means(regrets["bernoulli", player], 1000)),
            ("reference", [reference] * RESAMPLES),
            goal=_at_most(1.1),
        )
        for player, reference in REFERENCES.items()
    ]
    return against_references + [
        ratio(
            each.key,
            each.what,
            ("/".join(each.over), _means(regrets[each.over], each.trial)),
            ("/".join(each.under), _means(regrets[each.under], each.trial)),
            goal=each.goal,
        )
        for each in COMPARISONS
    ]


def _stated(regrets: Regrets) -> list[Figure]:
    return [
        figure(
            stated_key(contest.world, player, trial),
            f"{contest.world}, {trial:,} trials: {player}",
            "regret",
            _means(regrets[contest.world, player], trial),
        )
        for contest in CONTESTS
        for player in contest.players
        for trial in contest.stated
    ]


def stated_key(world: str, player: str, trial: int) -> str:
    """Return the key of the mean regret of a player at a bandit after so many trials."""
    return f"{world}-{player}-{trial}"


def _times(seeds: int) -> list[Figure]:
    """Time choosing and learning, one player at a time in this process, five arms."""
    worlds = [WORLDS[TIMED.world](seed, TIMED.trials) for seed in range(seeds)]
    timed = {
        name: [play(world, _player(name, spec, world, 0)).seconds for world in worlds]
        for name, spec in TIMED.players.items()
    }
    return [
        figure(f"time-{name}", f"choose and learn: {name}", "µs", scaled(seconds, 1e6))
        for name, seconds in timed.items()
    ]


def _curve(regrets: FloatArray) -> tuple[float, ...]:
    mean = regrets.mean(axis=0)
    places = np.linspace(0, len(mean), POINTS + 1)[1:].astype(int) - 1
    return tuple(rounded(float(value)) for value in mean[places])
