"""What a report teaches: new arms, answers to decisions, contributions, and rewards from them."""

import math
from collections.abc import Iterable
from dataclasses import replace

from esper.bandit import (
    ArmStats,
    HistoryKey,
    LinearModel,
    PerformanceTracker,
    SlotId,
    TrialResult,
    features,
    reward_of,
)
from esper.orchestrator.candidates import Arms
from esper.orchestrator.state import FoldState, PendingDecision, Trial
from esper.orchestrator.strategy_state import applied, next_strategy_state, reports_kept, with_alpha
from esper.topics.codec import sha256_of
from esper.topics.models import OutcomeStatus, SeedReport, SeedState, SeedStatus, Selection

UNMEASURABLE_REWARD = 0.0
"""A kernel under which the probe loss is not even finite is the worst there can be."""

MAX_CONTRIBUTION = 1e100
"""A difference of losses beyond this measures nothing, and sums of such would overflow."""

ON_TRIAL = frozenset({SeedState.LOADING, SeedState.BLENDING, SeedState.ACTIVE})


def learn(state: FoldState, report: SeedReport, value_sha256: str) -> FoldState:
    """Return the state after a report, before any decision; the digest is of its record value."""
    selection = state.run.selection
    trials = _observed(state, report)
    arms, tracker = state.arms, state.tracker
    if report.kernels:
        arms, tracker = arms.with_kernels(report.kernels, tracker, state.run)
    if report.incidents:
        arms = arms.embargoed(_rolled_back(report), _rollback_embargo(report, selection))
    if report.outcomes:
        arms = _with_embargoes(arms, state.pending, report, selection)
    learnt = replace(
        state,
        last_seq=report.seq,
        closed=report.closing,
        evidence_sha256=sha256_of(f"{state.evidence_sha256}{value_sha256}".encode()),
        arms=arms,
        tracker=tracker,
        trials=tuple(_judged(trial, selection) for trial in trials),
        pending=_unanswered(state.pending, report),
        occupied=_occupied(state, report),
        strategy_state=next_strategy_state(state.strategy_state, selection, report),
        first_loss=_first_loss(state, report),
    )
    due = [trial for trial in trials if _due(trial, selection)]
    learnt = _with_rewards(learnt, due, report) if due else learnt
    return _with_penalties(learnt, report) if report.incidents else learnt


def _first_loss(state: FoldState, report: SeedReport) -> float | None:
    """Return the first probe loss of the run, where its selection holds kernels against it."""
    if state.first_loss is not None or not state.run.selection.keep_first_share:
        return state.first_loss
    loss = report.probe_loss
    return loss if loss is not None and abs(loss) <= MAX_CONTRIBUTION else None


def mean_contribution(trial: Trial) -> float | None:
    """Return the mean of what was measured, None where nothing was.

    fsum rounds alike in every Python version, sum does not.
    """
    measured = [value for value in trial.contributions if value is not None]
    return math.fsum(measured) / len(measured) if measured else None


def _unanswered(
    pending: tuple[PendingDecision, ...], report: SeedReport
) -> tuple[PendingDecision, ...]:
    if not pending:
        return pending
    answered = {outcome.decision_id for outcome in report.outcomes}
    return tuple(waiting for waiting in pending if waiting.decision_id not in answered)


def _occupied(state: FoldState, report: SeedReport) -> dict[SlotId, int]:
    """Return when each seat was last not dormant, without those for which it no longer matters."""
    if not state.run.selects:
        return {}
    rested = report.seq - state.run.selection.limits.dormant_reports
    lately = {seat: seq for seat, seq in state.occupied.items() if seq > rested}
    return lately | {SlotId(seed.site, seed.slot): report.seq for seed in report.seeds}


def _with_embargoes(
    arms: Arms, pending: tuple[PendingDecision, ...], report: SeedReport, selection: Selection
) -> Arms:
    """Leave alone for a while what the trainer did not plant, or it would be asked for ever."""
    refused = {
        outcome.decision_id
        for outcome in report.outcomes
        if outcome.status is not OutcomeStatus.APPLIED
    }
    names = [
        name for waiting in pending if waiting.decision_id in refused for name in waiting.planted
    ]
    return arms.embargoed(names, report.seq + selection.limits.embargo_reports)


def _observed(state: FoldState, report: SeedReport) -> tuple[Trial, ...]:
    known = {(trial.site, trial.slot, trial.kernel_id): trial for trial in state.trials}
    seeds = [seed for seed in report.seeds if seed.state in ON_TRIAL]
    observed = [_observed_once(known, seed, state) for seed in seeds]
    if state.strategy_state is None:
        return tuple(observed)
    asked = applied(state.strategy_state, report)
    return tuple(
        with_alpha(trial, seed, asked.get(trial.seat))
        for trial, seed in zip(observed, seeds, strict=True)
    )


def ended_early(state: FoldState, trials: Iterable[Trial], report: SeedReport) -> FoldState:
    """Return the state after trials that are cut short: each counts by what was measured of it."""
    ended = [trial for trial in trials if not trial.judged and trial.contributions]
    if not ended:
        return state
    judged = tuple(
        trial.model_copy(update={"judged": True}) if trial in ended else trial
        for trial in state.trials
    )
    return _with_rewards(replace(state, trials=judged), ended, report)


def _observed_once(
    known: dict[tuple[str, int, str], Trial], seed: SeedStatus, state: FoldState
) -> Trial:
    """Return the trial of a seed after one more report.

    Once judged it is measured no more, unless the run pursues a course.
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
    newest = (*trial.contributions, measured)[-reports_kept(selection) :]
    if not warming_up(trial, selection):
        return trial.model_copy(update={"contributions": newest})
    warmed = trial.model_copy(update={"warmed_up": trial.warmed_up + 1, "contributions": newest})
    if warming_up(warmed, selection):
        return warmed
    return warmed.model_copy(update={"contributions": ()})


def warming_up(trial: Trial, selection: Selection) -> bool:
    """Whether a seed still learns: what it gives counts only where it does harm."""
    return trial.warmed_up < selection.warmup_reports


def _due(trial: Trial, selection: Selection) -> bool:
    if trial.judged or warming_up(trial, selection):
        return False
    return len(trial.contributions) >= selection.trial_reports


def _judged(trial: Trial, selection: Selection) -> Trial:
    return trial.model_copy(update={"judged": True}) if _due(trial, selection) else trial


def _with_rewards(state: FoldState, due: list[Trial], report: SeedReport) -> FoldState:
    """Return the state in which the trials that ended count, in the order of the arms."""
    ended = [
        (place, trial)
        for trial in due
        if (place := state.arms.arm_features.by_kernel.get((trial.site, trial.kernel_id)))
        is not None
    ]
    for place, trial in sorted(ended, key=lambda each: (each[0], each[1].slot)):
        state = _rewarded(state, place, trial, report)
    return state


def incidents_in_words(report: SeedReport, selection: Selection) -> str:
    """Return what the governor did since the last report, for the reason of a decision."""
    until = _rollback_embargo(report, selection)
    said = []
    for incident in report.incidents:
        seeds = ", ".join(f"{seed.site}/{seed.slot}" for seed in incident.seeds)
        what = f"{incident.kind} at step {incident.step}"
        said.append(
            f"{what}: {seeds} rolled back, its kernel rests until report {until}"
            if seeds
            else f"{what} with nothing on trial: the host's own"
        )
    return "; ".join(said)


def _rollback_embargo(report: SeedReport, selection: Selection) -> int:
    return report.seq + selection.limits.rollback_embargo_reports


def _rolled_back(report: SeedReport) -> list[tuple[str, str]]:
    return [(seed.site, seed.kernel_id) for incident in report.incidents for seed in incident.seeds]


def _with_penalties(state: FoldState, report: SeedReport) -> FoldState:
    """Return the state in which what was rolled back counts as a trial of the lowest reward."""
    for incident in report.incidents:
        for seed in incident.seeds:
            place = state.arms.arm_features.by_kernel.get((seed.site, seed.kernel_id))
            if place is not None:
                params = state.arms.rows[place].kernel.params
                result = TrialResult(
                    reward=UNMEASURABLE_REWARD, contribution=None, params=params, seq=report.seq
                )
                state = _counted(state, place, SlotId(seed.site, seed.slot), result, report)
    return state


def _rewarded(state: FoldState, place: int, trial: Trial, report: SeedReport) -> FoldState:
    result = _result(trial, state.arms.rows[place].kernel.params, state, report)
    return _counted(state, place, SlotId(trial.site, trial.slot), result, report)


def _counted(
    state: FoldState, place: int, seat: SlotId, result: TrialResult, report: SeedReport
) -> FoldState:
    """Return the state after one more trial of an arm."""
    kernel = state.arms.rows[place].kernel
    tracker = state.tracker.after(seat.site, seat.slot, kernel.blueprint_id, result)
    return replace(
        state,
        tracker=tracker,
        arms=state.arms.with_history(
            place, tracker.marginal[HistoryKey(seat.site, None, kernel.blueprint_id)]
        ),
        seeds=_seeds_after(state, seat, tracker),
        model=_model_after(state, place, result.reward, report),
    )


def _result(trial: Trial, params: int, state: FoldState, report: SeedReport) -> TrialResult:
    contribution = mean_contribution(trial)
    reward = UNMEASURABLE_REWARD
    if contribution is not None and report.probe_loss is not None:
        host_params = state.run.run_config.host_params
        reward = reward_of(contribution, report.probe_loss, params, host_params)
    return TrialResult(reward=reward, contribution=contribution, params=params, seq=report.seq)


def _seeds_after(state: FoldState, seat: SlotId, tracker: PerformanceTracker) -> ArmStats:
    place = state.run.seat_places.get(seat)
    if place is None:
        return state.seeds
    return state.seeds.with_history(place, tracker.marginal[HistoryKey(seat.site, seat.slot)])


def _model_after(
    state: FoldState, place: int, reward: float, report: SeedReport
) -> LinearModel | None:
    if state.model is None:
        return None
    kernels = state.arms.arm_features.kernels
    rows = features(state.run.run_config.sites, report.gradients, kernels)
    before = state.tracker.of(HistoryKey(kernels[place].site, None, kernels[place].blueprint_id))
    return state.model.after(rows[place].tolist(), reward, before.pulls if before else 0)
