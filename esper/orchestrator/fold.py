"""The fold: one report in, the next state and the decisions it led to out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from esper.bandit import PURPOSE, TIE_BREAK, Policy
from esper.orchestrator.answer import last_word, no_action
from esper.orchestrator.candidates import TooManyArms
from esper.orchestrator.orchestrator import Intent, Proposal, SeedOrchestrator
from esper.orchestrator.plan import DecisionPlan
from esper.orchestrator.state import FoldState, PendingDecision, RequestedAlpha, StrategyState
from esper.orchestrator.trials import ended_early, incidents_in_words, learn
from esper.topics.codec import digest, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Cause,
    Cull,
    Plant,
    PolicySpec,
    PolicyStamp,
    RandomStamp,
    Reweight,
    SeedReport,
)

SEAL: Proposal = (None, DecisionPlan((), "the run is closed; this seals its reports"))


class FoldError(ValueError):
    """A report that cannot be folded."""


class RunUnfoldable(FoldError):
    """This report can never be folded: its run was not opened, is closed, or asks too much."""


class SequenceGap(FoldError):
    """A report is missing: folding past the hole would make decisions no audit could repeat."""


class Folded(NamedTuple):
    """The state after a report, and the decisions it led to."""

    state: FoldState
    decisions: tuple[AdaptationDecision, ...]


def fold(
    state: FoldState | None,
    report: SeedReport,
    cause: Cause,
) -> Folded:
    """Fold one report into the state of its run (None before the first).

    A report already folded changes nothing and leads to no decision. In a lockstep run every
    other report leads to one at least: the last has no operations and ends the answer.

    Raises:
        RunUnfoldable: there is no state, and the report opens none that could be folded; or the
            run was closed by an earlier report, or offers too many arms.
        SequenceGap: the report is not the next one.
    """
    before = state or _opened(report)
    if report.seq <= before.last_seq:
        return Folded(before, ())
    if before.closed:
        raise RunUnfoldable(
            f"run {report.run_id} was closed by report {before.last_seq}; {report.seq} comes after"
        )
    if report.seq != before.last_seq + 1:
        raise SequenceGap(
            f"run {report.run_id}: report {before.last_seq + 1} is missing, next is {report.seq}"
        )
    try:
        after = learn(before, report, cause.sha256)
    except TooManyArms as error:
        raise RunUnfoldable(f"run {report.run_id}: {error}") from error
    intent = SeedOrchestrator().decide(after, report)
    view = intent.view
    plans: list[Proposal] = [SEAL] if report.closing else list(intent.plans)
    reason = None
    idle = not any(plan.operations for _, plan in plans)
    if not report.closing and (idle or report.paused):
        reason = no_action(view)
    if after.run.run_config.lockstep and not report.closing:
        plans.append((None, last_word(view, len(plans))))
    elif report.incidents and not plans:
        plans.append((None, DecisionPlan((), reason or "nothing is decided")))
    elif reason is not None and reason != before.said:
        plans.append((None, DecisionPlan((), reason)))
    if report.incidents:
        plans[0] = _told_of_incidents(plans[0], report, after)
    committed = _committed(replace(after, strategy_state=intent.strategy_state), report, plans)
    after = replace(committed, said=reason)
    decisions = _decisions(before, after, intent, cause, plans)
    previous = digest(decisions[-1]) if decisions else after.previous_sha256
    return Folded(replace(after, previous_sha256=previous), decisions)


def decision_id(run_id: str, seq: int, index: int) -> str:
    """The id of a decision: the digest of what it answers, so that a repetition has the same."""
    return sha256_of(f"{run_id}/{seq}/{index}".encode())


def _opened(report: SeedReport) -> FoldState:
    if report.run_config is None or report.seq != 0:
        raise RunUnfoldable(
            f"run {report.run_id} begins with report {report.seq}, which does not open it"
        )
    try:
        return FoldState.opened_by(report)
    except ValueError as error:
        raise RunUnfoldable(f"run {report.run_id}: {error}") from error


def _told_of_incidents(proposal: Proposal, report: SeedReport, state: FoldState) -> Proposal:
    """Return the first answer to a report, with what the governor did before its own reason."""
    strategy, plan = proposal
    said = incidents_in_words(report, state.run.selection)
    return strategy, replace(plan, reason=f"{said}; {plan.reason}")


def _committed(state: FoldState, report: SeedReport, plans: list[Proposal]) -> FoldState:
    """Return the state that remembers what was asked for: answers to await, arms to leave alone."""
    operations = [operation for _, plan in plans for operation in plan.operations]
    if not operations:
        return state
    culled = [(each.site, each.kernel_id) for each in operations if isinstance(each, Cull)]
    planted = [each for each in operations if isinstance(each, Plant)]
    until = report.seq + state.run.selection.limits.embargo_reports
    awaited = tuple(
        PendingDecision(
            decision_id=decision_id(report.run_id, report.seq, index),
            planted=tuple(
                (operation.site, operation.kernel_id)
                for operation in plan.operations
                if isinstance(operation, Plant)
            ),
        )
        for index, (_, plan) in enumerate(plans)
        if plan.operations
    )
    if state.strategy_state is not None:
        cut = [trial for trial in state.trials if (trial.site, trial.kernel_id) in culled]
        state = ended_early(state, cut, report)
    return replace(
        state,
        strategy_state=_asked(state.strategy_state, awaited, plans, report.seq),
        arms=state.arms.embargoed(culled, until),
        pending=state.pending + awaited,
        rotation=_rotated(state, planted),
    )


def _asked(
    strategy_state: StrategyState | None,
    awaited: Sequence[PendingDecision],
    plans: Sequence[Proposal],
    seq: int,
) -> StrategyState | None:
    """Return the agenda that remembers which alphas were asked for, until they are answered."""
    if strategy_state is None:
        return None
    asking = [plan for _, plan in plans if plan.operations]
    asked = [
        RequestedAlpha(
            decision_id=pending.decision_id,
            site=operation.site,
            slot=operation.slot,
            kernel_id=operation.kernel_id,
            alpha=operation.alpha,
            round_seq=seq,
            round_size=len(pending.planted) if isinstance(operation, Plant) else None,
        )
        for pending, plan in zip(awaited, asking, strict=True)
        for operation in plan.operations
        if isinstance(operation, Plant | Reweight)
    ]
    return strategy_state.model_copy(update={"asked": (*strategy_state.asked, *asked)})


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
    before: FoldState,
    after: FoldState,
    intent: Intent,
    cause: Cause,
    plans: list[Proposal],
) -> tuple[AdaptationDecision, ...]:
    if not plans:
        return ()
    run, view = after.run, intent.view
    before_sha256, after_sha256 = before.sha256(), after.sha256()
    previous = before.previous_sha256
    decisions = []
    for index, (strategy, plan) in enumerate(plans):
        decision = AdaptationDecision(
            decision_id=decision_id(after.run_id, cause.seq, index),
            run_id=after.run_id,
            seq=cause.seq,
            index=index,
            strategy=strategy,
            operations=plan.operations,
            reason=plan.reason[:500],
            apply_at_step=view.report.step + 1,
            cause=cause,
            policy=_stamp(run.policy, run.run_config.policy),
            candidates=view.candidates(plan.operations),
            seeds=view.seed_candidates(),
            attention=(
                _stamp(run.attention, run.selection.attention)
                if run.attention and run.selection.attention
                else None
            ),
            course=intent.course,
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
        view = view.beside(plan.operations)
    return tuple(decisions)


def _stamp(policy: Policy, spec: PolicySpec) -> PolicyStamp:
    return PolicyStamp(name=policy.name, version=policy.version, params_sha256=digest(spec))
