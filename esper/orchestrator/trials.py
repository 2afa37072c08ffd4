"""The trials of a run: measure seeds from reports, reward arms, and judge trials one by one.

`apply_report` is the fold's first step: it puts a report into the state. `INDEPENDENT_TRIALS` is
the plan of runs without orchestration: each trial by its own verdict, then the best arm.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import Final

from esper.bandit import (
    ArmChoice,
    ArmStats,
    HistoryKey,
    LinearModel,
    PerformanceTracker,
    SlotId,
    TrialResult,
    features,
    reward_of,
)
from esper.orchestrator.audition_round import with_report
from esper.orchestrator.candidates import Arms
from esper.orchestrator.state import (
    FULL_ALPHA,
    FoldState,
    PendingDecision,
    RequestedAlpha,
    StrategyState,
    Trial,
)
from esper.orchestrator.view import DecisionPlan, View
from esper.topics.codec import sha256_of
from esper.topics.models import (
    Operation,
    OutcomeStatus,
    SeedReport,
    SeedState,
    SeedStatus,
    Selection,
)

UNMEASURABLE_REWARD = 0.0
"""The reward of a kernel under which the probe loss is not finite: the lowest one."""

MAX_CONTRIBUTION = 1e100
"""A larger difference of losses counts as not measured; sums of such values would overflow."""

ON_TRIAL = frozenset({SeedState.LOADING, SeedState.BLENDING, SeedState.ACTIVE})


def apply_report(state: FoldState, report: SeedReport, value_sha256: str) -> FoldState:
    """Return the state after a report, before its decisions.

    The result has the report's kernels, outcomes, contributions, and rewards of trials that ended.
    `value_sha256` is the digest of the report's record value.
    """
    selection = state.run.selection
    trials = _observed(state, report)
    arms, tracker = state.arms, state.tracker
    if report.kernels:
        arms, tracker = arms.with_kernels(report.kernels, tracker, state.run)
    if report.incidents:
        arms = arms.embargoed(_rolled_back(report), _rollback_embargo(report, selection))
    if report.outcomes:
        arms = _with_embargoes(arms, state.pending, report, selection)
    after = replace(
        state,
        last_seq=report.seq,
        closed=report.closing,
        evidence_sha256=sha256_of(f"{state.evidence_sha256}{value_sha256}".encode()),
        arms=arms,
        tracker=tracker,
        trials=tuple(_judged(trial, selection) for trial in trials),
        pending=_unanswered(state.pending, report),
        occupied=_occupied(state, report),
        strategy_state=_next_strategy_state(state.strategy_state, selection, report),
        first_loss=_first_loss(state, report),
        audition_round=state.audition_round and with_report(state.audition_round, report),
    )
    due = [trial for trial in trials if _due(trial, selection)]
    after = _with_rewards(after, due, report) if due else after
    return _with_penalties(after, report) if report.incidents else after


def _first_loss(state: FoldState, report: SeedReport) -> float | None:
    """Return the first probe loss of the run, where the selection uses `keep_first_share`."""
    if state.first_loss is not None or not state.run.selection.keep_first_share:
        return state.first_loss
    loss = report.probe_loss
    return loss if loss is not None and abs(loss) <= MAX_CONTRIBUTION else None


def _unanswered(
    pending: tuple[PendingDecision, ...], report: SeedReport
) -> tuple[PendingDecision, ...]:
    if not pending:
        return pending
    answered = {outcome.decision_id for outcome in report.outcomes}
    return tuple(decision for decision in pending if decision.decision_id not in answered)


def _occupied(state: FoldState, report: SeedReport) -> dict[SlotId, int]:
    """Return the last report in which each slot was not dormant, if a limit still needs it."""
    if not state.run.selects:
        return {}
    rested = report.seq - state.run.selection.limits.dormant_reports
    recent = {slot_id: seq for slot_id, seq in state.occupied.items() if seq > rested}
    return recent | {SlotId(seed.site, seed.slot): report.seq for seed in report.seeds}


def _with_embargoes(
    arms: Arms, pending: tuple[PendingDecision, ...], report: SeedReport, selection: Selection
) -> Arms:
    """Return the arms with an embargo on kernels that the trainer refused to plant.

    Without the embargo every report would request them again.
    """
    refused = {
        outcome.decision_id
        for outcome in report.outcomes
        if outcome.status is not OutcomeStatus.APPLIED
    }
    names = [
        name for decision in pending if decision.decision_id in refused for name in decision.planted
    ]
    return arms.embargoed(names, report.seq + selection.limits.embargo_reports)


def _observed(state: FoldState, report: SeedReport) -> tuple[Trial, ...]:
    known = {(trial.site, trial.slot, trial.kernel_id): trial for trial in state.trials}
    seeds = [seed for seed in report.seeds if seed.state in ON_TRIAL]
    observed = [_observed_trial(known, seed, state) for seed in seeds]
    if state.strategy_state is None:
        return tuple(observed)
    applied = _applied_alphas(state.strategy_state, report)
    return tuple(
        _with_alpha(trial, seed, applied.get(trial.slot_id))
        for trial, seed in zip(observed, seeds, strict=True)
    )


def end_early(state: FoldState, trials: Iterable[Trial], report: SeedReport) -> FoldState:
    """Return the state after ending trials early; their measurements so far give the rewards."""
    ended = [trial for trial in trials if not trial.judged and trial.contributions]
    if not ended:
        return state
    judged = tuple(
        trial.model_copy(update={"judged": True}) if trial in ended else trial
        for trial in state.trials
    )
    return _with_rewards(replace(state, trials=judged), ended, report)


def _observed_trial(
    known: dict[tuple[str, int, str], Trial], seed: SeedStatus, state: FoldState
) -> Trial:
    """Return the trial of a seed after one more report.

    After its verdict a trial is measured only in orchestrated runs.
    """
    kernel_id = seed.kernel_id or ""
    trial = known.get(
        (seed.site, seed.slot, kernel_id),
        Trial(site=seed.site, slot=seed.slot, kernel_id=kernel_id),
    )
    if seed.state is not SeedState.ACTIVE or (trial.judged and state.strategy_state is None):
        return trial
    measured = seed.contribution
    if measured is not None and abs(measured) > MAX_CONTRIBUTION:
        measured = None
    selection = state.run.selection
    newest = (*trial.contributions, measured)[-_contributions_kept(selection) :]
    if not trial.warming_up(selection):
        return trial.model_copy(update={"contributions": newest})
    warmed = trial.model_copy(update={"warmed_up": trial.warmed_up + 1, "contributions": newest})
    if warmed.warming_up(selection):
        return warmed
    return warmed.model_copy(update={"contributions": ()})


def _due(trial: Trial, selection: Selection) -> bool:
    if trial.judged or trial.warming_up(selection):
        return False
    return len(trial.contributions) >= selection.trial_reports


def _judged(trial: Trial, selection: Selection) -> Trial:
    return trial.model_copy(update={"judged": True}) if _due(trial, selection) else trial


def _with_rewards(state: FoldState, due: list[Trial], report: SeedReport) -> FoldState:
    """Return the state with the rewards of ended trials, counted in the order of the arms."""
    ended = [
        (index, trial)
        for trial in due
        if (index := state.arms.arm_features.by_kernel.get((trial.site, trial.kernel_id)))
        is not None
    ]
    for index, trial in sorted(ended, key=lambda pair: (pair[0], pair[1].slot)):
        state = _rewarded(state, index, trial, report)
    return state


def describe_incidents(report: SeedReport, selection: Selection) -> str:
    """Return the governor's actions since the last report, for the reason of a decision."""
    until = _rollback_embargo(report, selection)
    parts = []
    for incident in report.incidents:
        seeds = ", ".join(f"{seed.site}/{seed.slot}" for seed in incident.seeds)
        incident_text = f"{incident.kind} at step {incident.step}"
        parts.append(
            f"{incident_text}: {seeds} rolled back, its kernel rests until report {until}"
            if seeds
            else f"{incident_text} with nothing on trial: the host's own"
        )
    return "; ".join(parts)


def _rollback_embargo(report: SeedReport, selection: Selection) -> int:
    return report.seq + selection.limits.rollback_embargo_reports


def _rolled_back(report: SeedReport) -> list[tuple[str, str]]:
    return [(seed.site, seed.kernel_id) for incident in report.incidents for seed in incident.seeds]


def _with_penalties(state: FoldState, report: SeedReport) -> FoldState:
    """Return the state in which each rollback counts as a trial of the lowest reward."""
    for incident in report.incidents:
        for seed in incident.seeds:
            index = state.arms.arm_features.by_kernel.get((seed.site, seed.kernel_id))
            if index is not None:
                params = state.arms.rows[index].kernel.params
                result = TrialResult(
                    reward=UNMEASURABLE_REWARD, contribution=None, params=params, seq=report.seq
                )
                state = _counted(state, index, SlotId(seed.site, seed.slot), result, report)
    return state


def _rewarded(state: FoldState, index: int, trial: Trial, report: SeedReport) -> FoldState:
    result = _result(trial, state.arms.rows[index].kernel.params, state, report)
    return _counted(state, index, SlotId(trial.site, trial.slot), result, report)


def _counted(
    state: FoldState, index: int, slot_id: SlotId, result: TrialResult, report: SeedReport
) -> FoldState:
    """Return the state after one more trial of an arm."""
    kernel = state.arms.rows[index].kernel
    tracker = state.tracker.after(slot_id.site, slot_id.slot, kernel.blueprint_id, result)
    return replace(
        state,
        tracker=tracker,
        arms=state.arms.with_history(
            index, tracker.marginal[HistoryKey(slot_id.site, None, kernel.blueprint_id)]
        ),
        slot_stats=_slot_stats_after(state, slot_id, tracker),
        model=_model_after(state, index, result.reward, report),
    )


def _result(trial: Trial, params: int, state: FoldState, report: SeedReport) -> TrialResult:
    contribution = trial.mean_contribution()
    reward = UNMEASURABLE_REWARD
    if contribution is not None and report.probe_loss is not None:
        host_params = state.run.run_config.host_params
        reward = reward_of(contribution, report.probe_loss, params, host_params)
    return TrialResult(reward=reward, contribution=contribution, params=params, seq=report.seq)


def _slot_stats_after(state: FoldState, slot_id: SlotId, tracker: PerformanceTracker) -> ArmStats:
    index = state.run.slot_index.get(slot_id)
    if index is None:
        return state.slot_stats
    return state.slot_stats.with_history(
        index, tracker.marginal[HistoryKey(slot_id.site, slot_id.slot)]
    )


def _model_after(
    state: FoldState, index: int, reward: float, report: SeedReport
) -> LinearModel | None:
    if state.model is None:
        return None
    kernels = state.arms.arm_features.kernels
    rows = features(state.run.run_config.sites, report.gradients, kernels)
    before = state.tracker.of(HistoryKey(kernels[index].site, None, kernels[index].blueprint_id))
    return state.model.after(rows[index].tolist(), reward, before.pulls if before else 0)


SAME_ALPHA = 1e-6
"""Reports state alphas in single precision; closer alphas are equal."""


def _contributions_kept(selection: Selection) -> int:
    """Return the number of latest contributions that a trial keeps."""
    orchestration = selection.orchestration
    return max(selection.trial_reports, orchestration.harm_reports if orchestration else 0)


def _next_strategy_state(
    strategy_state: StrategyState | None, selection: Selection, report: SeedReport
) -> StrategyState | None:
    """Return the strategy state with the report's probe loss, without alphas it has answered."""
    orchestration = selection.orchestration
    if strategy_state is None or orchestration is None:
        return None
    losses = strategy_state.losses
    if report.probe_loss is not None:
        losses = (*losses, report.probe_loss)[-2 * orchestration.plateau_reports :]
    answered = {outcome.decision_id for outcome in report.outcomes}
    unanswered = tuple(
        request
        for request in strategy_state.requested_alphas
        if request.decision_id not in answered
    )
    return strategy_state.model_copy(update={"losses": losses, "requested_alphas": unanswered})


def _applied_alphas(
    strategy_state: StrategyState, report: SeedReport
) -> Mapping[SlotId, RequestedAlpha]:
    """Return the requested alphas whose decisions the report says were applied."""
    applied = {
        outcome.decision_id
        for outcome in report.outcomes
        if outcome.status is OutcomeStatus.APPLIED
    }
    return {
        SlotId(request.site, request.slot): request
        for request in strategy_state.requested_alphas
        if request.decision_id in applied
    }


def _with_alpha(trial: Trial, seed: SeedStatus, request: RequestedAlpha | None) -> Trial:
    """Return a trial with the alpha of its seed, or with the target of the seed's ramp."""
    alpha = trial.alpha
    if request is not None and request.kernel_id == trial.kernel_id:
        alpha = request.alpha
        in_round = {"round_seq": request.round_seq, "round_size": request.round_size}
        trial = trial.model_copy(update=in_round if request.round_size else {"settled": True})
    if seed.state is SeedState.ACTIVE and (alpha is None or abs(alpha - seed.alpha) > SAME_ALPHA):
        # The alpha differs from the requested one: something else set it, and the report counts.
        alpha = seed.alpha
    return trial.model_copy(update={"alpha": FULL_ALPHA if alpha is None else alpha})


def replace_weak(view: View) -> DecisionPlan | None:
    """Cull every seed that failed its trial and plant the best arm in another slot.

    The culled slots stay closed, because their embargo begins.
    """
    weak = [
        (trial, contribution)
        for trial, contribution in view.judged()
        if not view.worth_keeping(contribution)
    ]
    if not weak:
        return None
    operations: tuple[Operation, ...] = tuple(trial.cull() for trial, _ in weak)
    reasons = [
        f"{trial.site}: {view.blueprint_of(trial)} {_verdict(contribution)}"
        for trial, contribution in weak
    ]
    view_after = view.after(operations)
    best = view_after.best()
    if best is not None:
        operations += (view_after.plant(best),)
        reasons.append(_why_planted(view_after, best))
    return DecisionPlan(operations, "; ".join(reasons))


def _verdict(contribution: float | None) -> str:
    if contribution is None:
        return "makes the probe loss impossible to measure"
    if contribution < 0:
        return f"raises the probe loss by {-contribution:.4g}"
    return f"lowers the probe loss by {contribution:.4g} only"


def keep_and_plant(view: View) -> DecisionPlan | None:
    """Fossilize every seed that passed its trial and plant the best arm."""
    operations: tuple[Operation, ...] = ()
    reasons = []
    for trial, contribution in view.judged():
        if contribution is None or not view.worth_keeping(contribution):
            continue
        operations += (trial.fossilize(),)
        name = view.blueprint_of(trial)
        reasons.append(f"{trial.site}: {name} lowers the probe loss by {contribution:.4g}, kept")
    view_after = view.after(operations)
    best = view_after.best()
    if best is not None:
        operations += (view_after.plant(best),)
        reasons.append(_why_planted(view_after, best))
    return DecisionPlan(operations, "; ".join(reasons)) if operations else None


def _why_planted(view: View, choice: ArmChoice) -> str:
    """Return the reason for planting an arm."""
    arm = view.arm(choice)
    name = f"{arm.kernel.site}: {arm.kernel.blueprint_id}"
    if choice.score == inf:
        return f"{name} was never tried"
    if not arm.pulls:
        return f"{name} scores {choice.score:.3f} and was never tried"
    return f"{name} scores {choice.score:.3f} (mean reward {arm.mean:.3f} of {arm.pulls})"


INDEPENDENT_TRIALS: Final[tuple[tuple[str, Callable[[View], DecisionPlan | None]], ...]] = (
    ("replace", replace_weak),
    ("diversify", keep_and_plant),
)
"""The plans of a run without orchestration, in order; each sees the view after the previous."""
