"""What an orchestrated run remembers from report to report beside what every run does."""

from collections.abc import Mapping

from esper.bandit import SlotId
from esper.orchestrator.state import FULL_ALPHA, RequestedAlpha, StrategyState, Trial
from esper.topics.models import OutcomeStatus, SeedReport, SeedState, SeedStatus, Selection

SAME_ALPHA = 1e-6
"""Alphas are reported as they are in the network, in single precision."""


def reports_kept(selection: Selection) -> int:
    """Return how many contributions of a seed are remembered, the newest."""
    orchestration = selection.orchestration
    return max(selection.trial_reports, orchestration.harm_reports if orchestration else 0)


def next_strategy_state(
    strategy_state: StrategyState | None, selection: Selection, report: SeedReport
) -> StrategyState | None:
    """Return what the run intends with one more probe loss, and without what was answered."""
    orchestration = selection.orchestration
    if strategy_state is None or orchestration is None:
        return None
    losses = strategy_state.losses
    if report.probe_loss is not None:
        losses = (*losses, report.probe_loss)[-2 * orchestration.plateau_reports :]
    answered = {outcome.decision_id for outcome in report.outcomes}
    asked = tuple(each for each in strategy_state.asked if each.decision_id not in answered)
    return strategy_state.model_copy(update={"losses": losses, "asked": asked})


def applied(strategy_state: StrategyState, report: SeedReport) -> Mapping[SlotId, RequestedAlpha]:
    """Return what was asked of seeds' alphas and, as a report tells, was done."""
    done = {
        outcome.decision_id
        for outcome in report.outcomes
        if outcome.status is OutcomeStatus.APPLIED
    }
    return {
        SlotId(each.site, each.slot): each
        for each in strategy_state.asked
        if each.decision_id in done
    }


def with_alpha(trial: Trial, seed: SeedStatus, asked: RequestedAlpha | None) -> Trial:
    """Return a trial with the alpha that its seed has or is on its way to."""
    alpha = trial.alpha
    if asked is not None and asked.kernel_id == trial.kernel_id:
        alpha = asked.alpha
        opened = {"round_seq": asked.round_seq, "round_size": asked.round_size}
        trial = trial.model_copy(update=opened if asked.round_size else {"settled": True})
    if seed.state is SeedState.ACTIVE and (alpha is None or abs(alpha - seed.alpha) > SAME_ALPHA):
        # Not what was asked for: someone else has been here, and what is counts.
        alpha = seed.alpha
    return trial.model_copy(update={"alpha": FULL_ALPHA if alpha is None else alpha})
