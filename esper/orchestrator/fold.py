"""The fold: one report in, the next state and the decisions it led to out."""

from typing import NamedTuple

from esper.bandit import Policy, policy_for
from esper.orchestrator.answer import last_word
from esper.orchestrator.board import TIE_BREAK, Board, set_up
from esper.orchestrator.learn import learn
from esper.orchestrator.plan import Plan
from esper.orchestrator.rules import DEFAULT_RULES, Rules
from esper.orchestrator.state import FoldState, Pending
from esper.orchestrator.strategies import STRATEGIES
from topics.codec import digest, sha256_of
from topics.models import (
    AdaptationDecision,
    Cause,
    Cull,
    Plant,
    PolicyStamp,
    RandomStamp,
    SeedReport,
    Strategy,
)

Proposal = tuple[Strategy | None, Plan]

SEAL: Proposal = (None, Plan((), "the run is closed; this seals its reports"))


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
    *,
    rules: Rules = DEFAULT_RULES,
) -> Folded:
    """Fold one report into the state of its run (None before the first).

    A report already folded changes nothing and leads to no decision. In a lockstep run every
    other report leads to one at least: the last has no operations and ends the answer.

    Raises:
        RunUnfoldable: there is no state, and the report opens none that could be folded; or the
            run was closed by an earlier report.
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
    after = learn(before, report, cause.sha256, rules)
    policy = policy_for(after.policy)
    board = set_up(after, report, policy, rules)
    plans = [SEAL] if report.closing else _plans(board)
    if after.lockstep and not report.closing:
        plans.append((None, last_word(board, len(plans))))
    after = _committed(after, report, plans, rules)
    decisions = _decisions(before, after, board, cause, policy, plans)
    previous = digest(decisions[-1]) if decisions else after.previous_sha256
    return Folded(after.model_copy(update={"previous_sha256": previous}), decisions)


def decision_id(run_id: str, seq: int, index: int) -> str:
    """The id of a decision: the digest of what it answers, so that a repetition has the same."""
    return sha256_of(f"{run_id}/{seq}/{index}".encode())


def _opened(report: SeedReport) -> FoldState:
    if report.opening is None or report.seq != 0:
        raise RunUnfoldable(
            f"run {report.run_id} begins with report {report.seq}, which does not open it"
        )
    try:
        policy_for(report.opening.policy)
    except ValueError as error:
        raise RunUnfoldable(f"run {report.run_id}: {error}") from error
    return FoldState.opened_by(report)


def _plans(board: Board) -> list[Proposal]:
    if board.state.pending:
        # What is under way decides which slots are free; wait for the trainer's answer.
        return []
    plans: list[Proposal] = []
    for strategy, propose in STRATEGIES:
        plan = propose(board)
        if plan is None:
            continue
        plans.append((strategy, plan))
        board = board.beside(plan.operations)
    return plans


def _committed(
    state: FoldState, report: SeedReport, plans: list[Proposal], rules: Rules
) -> FoldState:
    """Return the state that remembers what was asked for: answers to await, arms to leave alone."""
    culled = {
        (operation.site, operation.kernel_id)
        for _, plan in plans
        for operation in plan.operations
        if isinstance(operation, Cull)
    }
    until = report.seq + rules.embargo_reports
    awaited = tuple(
        Pending(
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
    return state.model_copy(
        update={
            "arms": tuple(
                arm.embargoed(until) if arm.name in culled else arm for arm in state.arms
            ),
            "pending": state.pending + awaited,
        }
    )


def _decisions(
    before: FoldState,
    after: FoldState,
    board: Board,
    cause: Cause,
    policy: Policy,
    plans: list[Proposal],
) -> tuple[AdaptationDecision, ...]:
    if not plans:
        return ()
    stamp = PolicyStamp(
        name=policy.name, version=policy.version, params_sha256=digest(after.policy)
    )
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
            apply_at_step=board.report.step + 1,
            cause=cause,
            policy=stamp,
            candidates=board.candidates(),
            random=RandomStamp(seed=after.seed, seq=cause.seq, purpose=TIE_BREAK),
            state_before_sha256=before_sha256,
            state_after_sha256=after_sha256,
            previous_sha256=previous,
        )
        previous = digest(decision)
        decisions.append(decision)
        board = board.beside(plan.operations)
    return tuple(decisions)
