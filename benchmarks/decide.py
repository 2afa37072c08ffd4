"""One decision: how long the fold takes with 8 and with 10,000 arms, and where the time goes.

The goals are for the decision itself, which is scoring, ranking and choosing. The fold around it
also learns from the report, and, where something is decided, records why: that is timed apart.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from benchmarks.result import Figure, Goal, Measured, figure
from benchmarks.timing import in_turn, scaled
from esper.bandit import History
from esper.orchestrator import FoldState, fold
from esper.orchestrator.board import set_up
from esper.orchestrator.learn import learn
from esper.orchestrator.state import Pending
from esper.orchestrator.strategies import STRATEGIES
from topics.codec import encode, sha256_of
from topics.models import (
    Cause,
    LoadableKernel,
    PolicySpec,
    RunOpening,
    SeedReport,
    SeedState,
    SeedStatus,
    Selection,
)

BLUEPRINTS_A_SITE: Final = 8
SEQ: Final = 40
RUN: Final = "benchmark"


class _Size:
    """How many arms, what one decision may take, and how often it is timed."""

    def __init__(self, arms: int, goal_us: float, rounds: int) -> None:
        self.arms = arms
        self.goal_us = goal_us
        self.rounds = rounds


SIZES: Final = (_Size(8, 10.0, 1000), _Size(10_000, 150.0, 20))
QUICK_ROUNDS: Final = 1


def run(quick: bool = False) -> Measured:
    """Time the fold, and its parts, on the same report."""
    figures = [
        each for size in SIZES for each in _size(size, QUICK_ROUNDS if quick else size.rounds)
    ]
    return Measured(
        parameters={
            "blueprints_a_site": BLUEPRINTS_A_SITE,
            "policy": "ucb1",
            "rounds": {str(size.arms): size.rounds for size in SIZES},
        },
        figures=tuple(figures),
    )


def _size(size: _Size, rounds: int) -> list[Figure]:
    seconds = in_turn(_calls(size.arms), rounds=rounds)
    micros = {name: scaled(values, 1e6) for name, values in seconds.items()}
    return [
        figure(
            f"{name}-{size.arms}",
            f"{size.arms:,} arms: {WHAT[name]}",
            "µs",
            values,
            goal=Goal(sense="at most", limit=size.goal_us) if name == "decision" else None,
        )
        for name, values in micros.items()
    ]


WHAT: Final = {
    "fold-decides": "one fold that decides",
    "fold-waits": "one fold that decides nothing (an answer is awaited)",
    "decision": "the decision itself: score, rank, choose",
    "learn": "of which learning from the report",
    "digests": "of which digests of the state before and after",
    "record": "of which the record: all candidates in words, encoded and hashed",
}


def _calls(arms: int) -> dict[str, Callable[[], object]]:
    state, report = _state(arms), _report()
    waiting = replace(state, pending=(Pending(decision_id="0" * 64),))
    cause = Cause(topic="seed-metrics", partition=0, offset=SEQ, seq=SEQ, sha256="0" * 64)
    decided = fold(state, report, cause).decisions[0]

    def decide() -> None:
        board = set_up(state, report)
        for _, propose in STRATEGIES:
            propose(board)

    return {
        "fold-decides": lambda: fold(state, report, cause),
        "fold-waits": lambda: fold(waiting, report, cause),
        "decision": decide,
        "learn": lambda: learn(state, report, cause.sha256),
        "digests": lambda: (state.sha256(), state.sha256()),
        "record": lambda: (
            set_up(state, report).candidates(decided.operations),
            sha256_of(encode(decided)),
        ),
    }


def _state(arms: int) -> FoldState:
    """Return a state in which every arm was tried and every site has a free slot."""
    sites = max(1, arms // BLUEPRINTS_A_SITE)
    opening = RunOpening(
        seed=0,
        slots={f"layer{site:04d}": 2 for site in range(sites)},
        policy=PolicySpec(),
        host_params=10_000,
        report_interval_steps=20,
        selection=Selection(),
    )
    state = FoldState.opened_by(SeedReport(run_id=RUN, seq=0, step=0, opening=opening))
    kernels = [_kernel(number) for number in range(arms)]
    offered, tracker = state.arms.with_kernels(kernels, state.tracker, state.run)
    for place in range(arms):
        offered = offered.with_history(
            place, History(pulls=1 + place % 5, mean=0.5 + (place % 7) / 100)
        )
    return replace(state, last_seq=SEQ - 1, arms=offered, tracker=tracker)


def _kernel(number: int) -> LoadableKernel:
    return LoadableKernel(
        kernel_id=sha256_of(str(number).encode()),
        site=f"layer{number // BLUEPRINTS_A_SITE:04d}",
        blueprint_id=f"blueprint-{number % BLUEPRINTS_A_SITE}",
        category=f"category-{number % BLUEPRINTS_A_SITE}",
        params=100,
    )


def _report() -> SeedReport:
    kept = _kernel(0)
    seed = SeedStatus(
        site=kept.site,
        slot=0,
        state=SeedState.FOSSILIZED,
        kernel_id=kept.kernel_id,
        blueprint_id=kept.blueprint_id,
        alpha=1.0,
        params=kept.params,
    )
    return SeedReport(
        run_id=RUN, seq=SEQ, step=20 * SEQ, train_loss=0.5, probe_loss=0.6, seeds=(seed,)
    )
