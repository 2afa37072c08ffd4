"""One decision: its time with 8 and with 10,000 arms, and the time of its parts.

The goals are for the choice: score every arm, check constraints, take the best. A library's bandit
does the same when it is asked for an arm; both are timed interleaved, several calls in a row. A
plan starts from a report that is already learned from, and ends with operations and a reason as
text; the fold around it also learns from the report and records the decision. Plan and fold are
timed call by call, after other work, as in a worker.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from mabwiser.mab import MAB, LearningPolicy
from river import bandit

from benchmarks.result import Figure, Goal, Measurement, figure
from benchmarks.timing import interleaved, scaled
from esper.bandit import ArmHistory, policy_for
from esper.orchestrator import (
    INDEPENDENT_TRIALS,
    FoldState,
    PendingDecision,
    apply_report,
    build_view,
    fold,
    recorded_arms,
)
from esper.topics.codec import encode, sha256_of
from esper.topics.models import (
    Cause,
    LoadableKernel,
    PolicySpec,
    RunConfig,
    SeedReport,
    SeedState,
    SeedStatus,
    Selection,
)

BLUEPRINTS_A_SITE: Final = 8
SEQ: Final = 40
RUN: Final = "benchmark"


class _Size(NamedTuple):
    """Arms, the goal for one choice, timed rounds, and calls in a row per round."""

    arms: int
    goal_us: float
    rounds: int
    in_a_row: int


SIZES: Final = (_Size(8, 10.0, 1000, 50), _Size(10_000, 150.0, 40, 10))
QUICK_ROUNDS: Final = 1


def run(quick: bool = False) -> Measurement:
    """Time the fold and its parts on the same report."""
    figures = [
        entry for size in SIZES for entry in _size(size, QUICK_ROUNDS if quick else size.rounds)
    ]
    return Measurement(
        parameters={
            "blueprints_a_site": BLUEPRINTS_A_SITE,
            "policy": "ucb1",
            "rounds": {str(size.arms): size.rounds for size in SIZES},
            "choices_in_a_row": {str(size.arms): size.in_a_row for size in SIZES},
        },
        figures=tuple(figures),
    )


def _size(size: _Size, rounds: int) -> list[Figure]:
    state, report = run_state(size.arms), next_report()
    seconds = interleaved(_choices(state, report), rounds=rounds, repeats=size.in_a_row)
    seconds |= interleaved(_folds(state, report), rounds=rounds)
    micros = {name: scaled(values, 1e6) for name, values in seconds.items()}
    return [
        figure(
            f"{name}-{size.arms}",
            f"{size.arms:,} arms: {TITLES[name]}",
            "µs",
            values,
            goal=Goal(sense="at most", limit=size.goal_us) if name == "choice" else None,
        )
        for name, values in micros.items()
    ]


TITLES: Final = {
    "choice": "the choice: score all, check constraints, take the best (UCB1)",
    "thompson-beta": "the same by Thompson sampling, beta",
    "thompson-gaussian": "the same by Thompson sampling, Gaussian",
    "river": "UCB of river 0.26.1 asked for an arm, no constraints",
    "mabwiser": "UCB1 of MABWiser 2.7.4 asked for an arm, no constraints",
    "plan": "from report to plan: free slots, the choice, operations and reason",
    "fold-decides": "one fold that decides",
    "fold-waits": "one fold without a decision (an outcome is pending)",
    "learn": "of which learning from the report",
    "digests": "of which digests of the state before and after",
    "record": "of which the record: all candidates, encoded and hashed",
}


def _choices(state: FoldState, report: SeedReport) -> dict[str, Callable[[], object]]:
    view = build_view(state, report)
    options, situation = view.selector_input(), view.situation

    def by(policy: str) -> Callable[[], object]:
        selector = replace(state.run.selector, policy=policy_for(PolicySpec(name=policy)))
        return lambda: selector.choose(options, situation)

    return {
        "choice": by("ucb1"),
        "thompson-beta": by("thompson-beta"),
        "thompson-gaussian": by("thompson-gaussian"),
        "river": _river(state),
        "mabwiser": _mabwiser(state),
    }


def _folds(state: FoldState, report: SeedReport) -> dict[str, Callable[[], object]]:
    waiting = replace(state, pending=(PendingDecision(decision_id="0" * 64),))
    cause = Cause(topic="seed-metrics", partition=0, offset=SEQ, seq=SEQ, sha256="0" * 64)
    decided = fold(state, report, cause).decisions[0]

    def plan() -> None:
        view = build_view(state, report)
        for _, propose in INDEPENDENT_TRIALS:
            propose(view)

    return {
        "plan": plan,
        "fold-decides": lambda: fold(state, report, cause),
        "fold-waits": lambda: fold(waiting, report, cause),
        "learn": lambda: apply_report(state, report, cause.sha256),
        "digests": lambda: (state.sha256(), state.sha256()),
        "record": lambda: (
            recorded_arms(build_view(state, report), decided.operations),
            sha256_of(encode(decided)),
        ),
    }


def _river(state: FoldState) -> Callable[[], object]:
    """Return a call of river's `pull`, with the trials and means of our arms."""
    policy = bandit.UCB(delta=1, burn_in=0, seed=0)
    names: list[int | str] = list(range(len(state.arms)))
    for index, arm in enumerate(state.arms):
        for _ in range(arm.pulls):
            policy.update(index, arm.mean)  # type: ignore[no-untyped-call]
    return lambda: policy.pull(names)


def _mabwiser(state: FoldState) -> Callable[[], object]:
    """Return a call of MABWiser's `predict`, with the trials and means of our arms."""
    mab = MAB(list(range(len(state.arms))), LearningPolicy.UCB1(alpha=1), seed=0)
    trials = [(index, arm.mean) for index, arm in enumerate(state.arms) for _ in range(arm.pulls)]
    mab.fit([index for index, _ in trials], [mean for _, mean in trials])
    return lambda: mab.predict()


def run_state(arms: int, listed_candidates: int | None = None) -> FoldState:
    """Return a state in which every arm was tried and every site has a free slot."""
    sites = max(1, arms // BLUEPRINTS_A_SITE)
    run_config = RunConfig(
        seed=0,
        slots={f"layer{site:04d}": 2 for site in range(sites)},
        policy=PolicySpec(),
        host_params=10_000,
        report_interval_steps=20,
        selection=Selection(),
        listed_candidates=listed_candidates,
    )
    state = FoldState.opened_by(SeedReport(run_id=RUN, seq=0, step=0, run_config=run_config))
    kernels = [_kernel(number) for number in range(arms)]
    offered, tracker = state.arms.with_kernels(kernels, state.tracker, state.run)
    for index in range(arms):
        offered = offered.with_history(
            index, ArmHistory(pulls=1 + index % 5, mean=0.5 + (index % 7) / 100)
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


def next_report() -> SeedReport:
    """Return the report after those of `run_state`; it leads to a decision."""
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
