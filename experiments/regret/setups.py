"""The bandits that are played, by which policies, and the regrets that are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from benchmarks.result import Goal
from esper.topics.models import PolicySpec
from experiments.regret.play import LIBRARIES
from experiments.regret.worlds import GAUSSIAN, SIGMA

EARLY: Final = 50
"""Trials after which memory must have helped."""

REFERENCES: Final = {"random": 180.0, "ucb1": 85.0, "kl-ucb": 35.0, "thompson-beta": 32.0}
"""Regret of reference implementations after 1,000 trials of the Bernoulli bandit."""

WINDOW: Final = {"window": 825.0}
"""4 sqrt(T ln T) for T = 5,000, from Garivier and Moulines."""

LINEAR: Final = PolicySpec(name="linear-thompson", params={"sigma": SIGMA})


def _named(*names: str) -> dict[str, PolicySpec | None]:
    return {name: None if name in LIBRARIES else PolicySpec(name=name) for name in names}


@dataclass(frozen=True, slots=True)
class BanditExperiment:
    """A bandit, its number of trials, the policies that play it, and the trials that are reported.

    A policy of a library has the spec None.
    """

    world: str
    trials: int
    agents: Mapping[str, PolicySpec | None]
    checkpoints: tuple[int, ...]


EXPERIMENTS: Final = (
    BanditExperiment("bernoulli", 5000, _named("ucb1", "kl-ucb", "thompson-beta"), (1000, 5000)),
    BanditExperiment(
        "bernoulli",
        1000,
        _named(
            *("random", "thompson-gaussian", "epsilon-greedy", "performance"),
            *("river-ucb1", "river-thompson", "mabwiser-ucb1", "mabwiser-thompson"),
        ),
        (1000,),
    ),
    BanditExperiment(
        "gaussian",
        1000,
        {**_named("random", "ucb1", "kl-ucb", "thompson-beta"), "thompson-gaussian": GAUSSIAN},
        (1000,),
    ),
    BanditExperiment(
        "drift",
        1200,
        _named(
            *("random", "ucb1", "sliding-ucb", "discounted-ucb"),
            *("thompson-beta", "sliding-thompson", "discounted-thompson"),
        ),
        (1200,),
    ),
    BanditExperiment(
        "switch",
        5000,
        {
            **_named("ucb1", "thompson-beta"),
            "sliding-ucb": PolicySpec(name="sliding-ucb", params=WINDOW),
            "sliding-thompson": PolicySpec(name="sliding-thompson", params=WINDOW),
        },
        (1000, 5000),
    ),
    BanditExperiment(
        "many", 150, {**_named("random", "ucb1"), "thompson-gaussian": GAUSSIAN}, (150,)
    ),
    BanditExperiment(
        "many-priors",
        150,
        {**_named("ucb1", "thompson-beta"), "thompson-gaussian": GAUSSIAN},
        (150,),
    ),
    *(
        BanditExperiment(
            world,
            300,
            {**_named("random"), "thompson-gaussian": GAUSSIAN, "linear-thompson": LINEAR},
            (300,),
        )
        for world in ("context", "context-none")
    ),
    *(
        BanditExperiment(world, 200, {"thompson-gaussian": GAUSSIAN}, (EARLY, 200))
        for world in ("memory-none", "memory-like", "memory-unlike")
    ),
)

TIMED: Final = BanditExperiment(
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


class RegretRatio(NamedTuple):
    """Regret of policy `over` ÷ that of policy `under` up to a trial, with its goal."""

    key: str
    title: str
    over: tuple[str, str]
    under: tuple[str, str]
    trial: int
    goal: Goal


def at_most(limit: float) -> Goal:
    """Return the goal of a median ratio."""
    return Goal(sense="at most", limit=limit)


ALWAYS_LESS: Final = Goal(sense="at most", limit=1.0, of="worst")
"""Below 1 in every resample."""

RATIOS: Final = (
    RegretRatio(
        "drift-ucb",
        "drifting arms: sliding window ÷ UCB1",
        ("drift", "sliding-ucb"),
        ("drift", "ucb1"),
        1200,
        ALWAYS_LESS,
    ),
    RegretRatio(
        "drift-thompson",
        "drifting arms: sliding window ÷ Thompson sampling",
        ("drift", "sliding-thompson"),
        ("drift", "thompson-beta"),
        1200,
        ALWAYS_LESS,
    ),
    *(
        RegretRatio(
            f"switch-{kind}",
            f"an arm that is best for a while: sliding window ÷ {stationary}",
            ("switch", f"sliding-{kind}"),
            ("switch", stationary),
            5000,
            ALWAYS_LESS,
        )
        for kind, stationary in (("ucb", "ucb1"), ("thompson", "thompson-beta"))
    ),
    RegretRatio(
        "context-informative",
        "informative features: contextual ÷ not",
        ("context", "linear-thompson"),
        ("context", "thompson-gaussian"),
        300,
        ALWAYS_LESS,
    ),
    RegretRatio(
        "context-uninformative",
        "uninformative features: contextual ÷ not",
        ("context-none", "linear-thompson"),
        ("context-none", "thompson-gaussian"),
        300,
        at_most(1.1),
    ),
    RegretRatio(
        "priors-many",
        "10,000 arms: with priors ÷ without",
        ("many-priors", "thompson-gaussian"),
        ("many", "thompson-gaussian"),
        150,
        ALWAYS_LESS,
    ),
    RegretRatio(
        "memory-like",
        f"memory of a similar family ÷ none, first {EARLY} trials",
        ("memory-like", "thompson-gaussian"),
        ("memory-none", "thompson-gaussian"),
        EARLY,
        at_most(0.5),
    ),
    *(
        RegretRatio(
            f"memory-unlike-{trial}",
            f"memory of a dissimilar family ÷ none, first {trial} trials",
            ("memory-unlike", "thompson-gaussian"),
            ("memory-none", "thompson-gaussian"),
            trial,
            at_most(1.15),
        )
        for trial in (EARLY, 200)
    ),
)


def checkpoint_key(world: str, agent: str, trial: int) -> str:
    """Return the key of a policy's mean regret on a bandit up to a trial."""
    return f"{world}-{agent}-{trial}"
