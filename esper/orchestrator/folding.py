"""Make decisions: fold one report into the state of its run and return the decisions it leads to.

Read this file from `fold` downwards. `apply_report` (trials.py) puts the report into the state,
`SeedOrchestrator.decide` chooses the plans, and `_decisions` turns the plans into records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from esper.bandit import PURPOSE, TIE_BREAK, Policy
from esper.errors import EsperError
from esper.orchestrator.auditions import STRATEGY as AUDITION
from esper.orchestrator.auditions import next_auditions, with_plans, with_snapshot
from esper.orchestrator.candidates import TooManyArms
from esper.orchestrator.explain import lockstep_answer, recorded_arms, recorded_slots, why_idle
from esper.orchestrator.manual_requests import answer_requests
from esper.orchestrator.other_candidates import RankedCandidates, digest_of
from esper.orchestrator.state import FoldState, PendingDecision, RequestedAlpha, StrategyState
from esper.orchestrator.strategies import RULES, rules_for
from esper.orchestrator.strategy_selection import (
    Rule,
    SignalReadings,
    choose_strategy,
    read_signals,
    strategy_choice,
)
from esper.orchestrator.trials import (
    INDEPENDENT_TRIALS,
    apply_report,
    describe_incidents,
    end_early,
)
from esper.orchestrator.view import DecisionPlan, View, build_view
from esper.topics.codec import digest
from esper.topics.models import (
    ActiveStrategy,
    AdaptationDecision,
    Cause,
    Cull,
    DecisionCandidates,
    Plant,
    PolicySpec,
    PolicyStamp,
    RandomStamp,
    Reweight,
    SeedReport,
)

Proposal = tuple[str | None, DecisionPlan]
"""A plan, and the strategy that proposed it; None for a plan of no strategy."""

SEAL: Final[Proposal] = (None, DecisionPlan((), "the run is closed; this seals its reports"))


class FoldError(EsperError, ValueError):
    """A report cannot be folded."""


class RunUnfoldable(FoldError):
    """The report can never be folded: its run is not open, is closed, or is out of bounds."""


class SequenceGap(FoldError):
    """A report is missing; decisions made without it could not be audited."""


class Folded(NamedTuple):
    """The state after a report, the decisions that the report led to, and their other candidates.

    `candidates` holds the candidates that the decisions do not list, in the order of the decisions.
    """

    state: FoldState
    decisions: tuple[AdaptationDecision, ...] = ()
    candidates: tuple[DecisionCandidates, ...] = ()


def fold(state: FoldState | None, report: SeedReport, cause: Cause) -> Folded:
    """Fold one report into the state of its run (None before the first report).

    A report that is already folded changes nothing and leads to no decision. In a lockstep run
    every other report leads to at least one decision; the last one has no operations and ends the
    answer.

    Raises:
        RunUnfoldable: the first report has no valid run_config, an earlier report closed the run,
            or the run has too many arms.
        SequenceGap: the report's seq is not the next one.
    """
    before = state or _start(report)
    if report.seq <= before.last_seq:
        return Folded(before)
    _check_next(before, report)
    try:
        after = apply_report(before, report, cause.sha256)
    except TooManyArms as error:
        raise RunUnfoldable(f"run {report.run_id}: {error}") from error
    intent = _orchestrator(after).decide(after, report)
    plans, idle_reason = _plans(intent, after, report, before.idle_reason)
    after = _remember(replace(after, strategy_state=intent.strategy_state), report, plans)
    after = replace(after, idle_reason=idle_reason)
    decisions, candidates = _decisions(before, after, intent, cause, plans)
    previous = digest(decisions[-1]) if decisions else after.previous_sha256
    return Folded(replace(after, previous_sha256=previous), decisions, candidates)


class Intent(NamedTuple):
    """The plans for a report, in order, with the view that they were made for.

    `strategy_state` and `choice` are None in runs without orchestration.
    """

    view: View
    plans: tuple[Proposal, ...]
    strategy_state: StrategyState | None = None
    choice: ActiveStrategy | None = None


@dataclass(frozen=True)
class SeedOrchestrator:
    """Choose a strategy by rules over signals and return its plan; pure.

    A run without orchestration has no strategy: each trial is judged independently.
    """

    rules: Sequence[Rule] = RULES

    def decide(self, state: FoldState, report: SeedReport) -> Intent:
        """Return the plans for a report that `state` already includes."""
        view, before = build_view(state, report), state.strategy_state
        answers = tuple[Proposal, ...]((None, plan) for plan in answer_requests(report))
        has_manual_operations = any(plan.operations for _, plan in answers)
        if has_manual_operations or report.paused or report.closing or state.pending:
            # Unanswered operations decide which slots are free; wait for the trainer's outcome.
            return Intent(view, answers, before)
        if before is None:
            return Intent(view, answers + _independent_plans(view))
        readings = read_signals(view, self.rules)
        after = choose_strategy(self.rules, before, view.orchestration, readings, report.seq)
        choice = strategy_choice(self.rules, before, after, readings)
        plans = answers + self._strategy_plan(view, after, readings)
        return Intent(view, plans + _audition_plan(view, plans, readings), after, choice)

    def _strategy_plan(
        self, view: View, strategy_state: StrategyState, readings: SignalReadings
    ) -> tuple[Proposal, ...]:
        """Return the plan of the current strategy; empty without one."""
        on = tuple(reading for reading in readings if reading.on(staying=True))
        strategy = strategy_state.strategy
        rule = next((rule for rule in self.rules if rule.strategy == strategy), None)
        plan = None if rule is None else rule.propose(view, on)
        if plan is None:
            return ()
        reason = _with_why(plan.reason, strategy_state)
        return ((strategy, DecisionPlan(plan.operations, reason)),)


def _orchestrator(state: FoldState) -> SeedOrchestrator:
    orchestration = state.run.selection.orchestration
    return SeedOrchestrator(() if orchestration is None else rules_for(orchestration))


def _independent_plans(view: View) -> tuple[Proposal, ...]:
    plans: tuple[Proposal, ...] = ()
    for strategy, propose in INDEPENDENT_TRIALS:
        plan = propose(view)
        if plan is None:
            continue
        plans += ((strategy, plan),)
        view = view.beside(plan.operations)
    return plans


def _audition_plan(
    view: View, plans: tuple[Proposal, ...], readings: SignalReadings
) -> tuple[Proposal, ...]:
    """Return the plan of kernels to try beside the training; empty where none is due."""
    if view.state.audition_round is None or any(plan.operations for _, plan in plans):
        return ()
    plateau = [one.description for one in readings if one.name == "plateau" and one.enters]
    plan = next_auditions(view, plateau[0] if plateau else None)
    return () if plan is None else ((AUDITION, plan),)


def _with_why(reason: str, strategy_state: StrategyState) -> str:
    """Return a plan's reason, with the reason for its strategy unless that is already in it."""
    _, _, why = strategy_state.why.rpartition(": ")
    if why in reason:
        return reason
    return f"{reason}; since report {strategy_state.since_seq}: {strategy_state.why}"


def _start(report: SeedReport) -> FoldState:
    """Return the state before the first report of a run."""
    if report.run_config is None or report.seq != 0:
        raise RunUnfoldable(
            f"run {report.run_id} starts with report {report.seq}, which has no run_config; "
            "fold it from report 0"
        )
    try:
        state = FoldState.opened_by(report)
        _orchestrator(state)
        return state
    except ValueError as error:
        raise RunUnfoldable(f"run {report.run_id}: {error}") from error


def _check_next(state: FoldState, report: SeedReport) -> None:
    if state.closed:
        raise RunUnfoldable(
            f"run {report.run_id} was closed by report {state.last_seq}; {report.seq} comes after"
        )
    if report.seq != state.last_seq + 1:
        raise SequenceGap(
            f"run {report.run_id}: report {state.last_seq + 1} is missing, next is {report.seq}"
        )


def _plans(
    intent: Intent, state: FoldState, report: SeedReport, last_idle_reason: str | None
) -> tuple[list[Proposal], str | None]:
    """Return the plans that become decisions, and the reason for no action (None: there is one)."""
    plans: list[Proposal] = [SEAL] if report.closing else list(intent.plans)
    reason = None
    idle = not any(plan.operations for _, plan in plans)
    if not report.closing and (idle or report.paused):
        reason = why_idle(intent.view)
    if state.run.run_config.lockstep and not report.closing:
        plans.append((None, lockstep_answer(intent.view, len(plans))))
    elif report.incidents and not plans:
        plans.append((None, DecisionPlan((), reason or "nothing is decided")))
    elif reason is not None and reason != last_idle_reason:
        plans.append((None, DecisionPlan((), reason)))
    if report.incidents:
        strategy, plan = plans[0]
        incidents = describe_incidents(report, state.run.selection)
        plans[0] = strategy, replace(plan, reason=f"{incidents}; {plan.reason}")
    return plans, reason


def _remember(state: FoldState, report: SeedReport, plans: list[Proposal]) -> FoldState:
    """Return the state with pending decisions, embargoes and rotation after the plans."""
    ids = [AdaptationDecision.id_of(report.run_id, report.seq, at) for at in range(len(plans))]
    if state.audition_round is not None:
        round_ = with_plans(state.audition_round, [plan for _, plan in plans], ids, report.seq)
        state = replace(state, audition_round=round_)
    operations = [operation for _, plan in plans for operation in plan.operations]
    if not operations:
        return state
    culled = [(op.site, op.kernel_id) for op in operations if isinstance(op, Cull)]
    planted = [op for op in operations if isinstance(op, Plant)]
    until = report.seq + state.run.selection.limits.embargo_reports
    pending = tuple(
        PendingDecision(
            decision_id=ids[index],
            planted=tuple(
                (op.site, op.kernel_id) for op in plan.operations if isinstance(op, Plant)
            ),
        )
        for index, (_, plan) in enumerate(plans)
        if plan.operations
    )
    if state.strategy_state is not None:
        ended = [trial for trial in state.trials if (trial.site, trial.kernel_id) in culled]
        state = end_early(state, ended, report)
    return replace(
        state,
        strategy_state=_with_requests(state.strategy_state, pending, plans, report.seq),
        arms=state.arms.embargoed(culled, until),
        pending=state.pending + pending,
        rotation=_rotated(state, planted),
    )


def _with_requests(
    strategy_state: StrategyState | None,
    pending: Sequence[PendingDecision],
    plans: Sequence[Proposal],
    seq: int,
) -> StrategyState | None:
    """Return the strategy state with the alphas that the plans request."""
    if strategy_state is None:
        return None
    with_operations = [plan for _, plan in plans if plan.operations]
    requests = [
        RequestedAlpha(
            decision_id=decision.decision_id,
            site=op.site,
            slot=op.slot,
            kernel_id=op.kernel_id,
            alpha=op.alpha,
            round_seq=seq,
            round_size=len(decision.planted) if isinstance(op, Plant) else None,
        )
        for decision, plan in zip(pending, with_operations, strict=True)
        for op in plan.operations
        if isinstance(op, Plant | Reweight)
    ]
    return strategy_state.model_copy(
        update={"requested_alphas": (*strategy_state.requested_alphas, *requests)}
    )


def _rotated(state: FoldState, planted: list[Plant]) -> Mapping[str, tuple[str, ...]]:
    kept = state.run.selection.limits.rotation
    if not kept:
        return state.rotation
    rotation = dict(state.rotation)
    for plant in planted:
        category = state.arms.category(plant.site, plant.blueprint_id)
        rotation[plant.site] = (*rotation.get(plant.site, ()), category)[-kept:]
    return rotation


def _decisions(
    before: FoldState, after: FoldState, intent: Intent, cause: Cause, plans: list[Proposal]
) -> tuple[tuple[AdaptationDecision, ...], tuple[DecisionCandidates, ...]]:
    """Return the decisions of the plans, and the events of the candidates that they do not list."""
    if not plans:
        return (), ()
    run, view = after.run, intent.view
    before_sha256, after_sha256 = before.sha256(), after.sha256()
    previous = before.previous_sha256
    names_course = run.run_config.contract == 2
    decisions: list[AdaptationDecision] = []
    candidates: list[DecisionCandidates] = []
    for index, (strategy, plan) in enumerate(plans):
        ranked = RankedCandidates.of(
            recorded_arms(view, plan.operations), plan.operations, run.run_config.listed_candidates
        )
        records = ranked.records(after.run_id, cause.seq, index)
        decision_id = AdaptationDecision.id_of(after.run_id, cause.seq, index)
        decision = AdaptationDecision(
            decision_id=decision_id,
            run_id=after.run_id,
            seq=cause.seq,
            index=index,
            strategy=strategy,
            operations=plan.operations,
            auditions=with_snapshot(plan.auditions, decision_id),
            reason=plan.reason[:500],
            apply_at_step=view.report.step + 1,
            cause=cause,
            policy=_stamp(run.policy, run.run_config.policy),
            candidates=ranked.listed,
            other_candidates=digest_of(records),
            seeds=recorded_slots(view),
            attention=(
                _stamp(run.attention, run.selection.attention)
                if run.attention and run.selection.attention
                else None
            ),
            course=intent.choice if names_course else None,
            strategy_choice=None if names_course else intent.choice,
            random=RandomStamp(
                seed=run.run_config.seed,
                seq=cause.seq,
                purpose=PURPOSE if run.selects else TIE_BREAK,
            ),
            state_before_sha256=before_sha256,
            state_after_sha256=after_sha256,
            previous_sha256=previous,
            request_id=plan.request_id,
        )
        previous = digest(decision)
        decisions.append(decision)
        candidates += records
        view = view.beside(plan.operations)
    return tuple(decisions), tuple(candidates)


def _stamp(policy: Policy, spec: PolicySpec) -> PolicyStamp:
    return PolicyStamp(name=policy.name, version=policy.version, params_sha256=digest(spec))
