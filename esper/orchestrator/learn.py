"""What a report teaches: new arms, answers to decisions, contributions, and rewards from them."""

import math

from esper.bandit import reward_of
from esper.orchestrator.rules import Rules
from esper.orchestrator.state import Arm, FoldState, Pending, Trial
from topics.codec import sha256_of
from topics.models import LoadableKernel, OutcomeStatus, SeedReport, SeedState, SeedStatus

UNMEASURABLE_REWARD = 0.0
"""A kernel under which the probe loss is not even finite is the worst there can be."""

MAX_CONTRIBUTION = 1e100
"""A difference of losses beyond this measures nothing, and sums of such would overflow."""

ON_TRIAL = frozenset({SeedState.LOADING, SeedState.BLENDING, SeedState.ACTIVE})


def learn(state: FoldState, report: SeedReport, value_sha256: str, rules: Rules) -> FoldState:
    """Return the state after a report, before any decision; the digest is of its record value."""
    trials = _observed(state.trials, report)
    arms = _with_kernels(state.arms, report.kernels)
    arms = _with_embargoes(arms, state.pending, report, rules)
    arms = _with_rewards(arms, trials, report, state.host_params, rules)
    return state.model_copy(
        update={
            "last_seq": report.seq,
            "closed": report.closing,
            "evidence_sha256": sha256_of(f"{state.evidence_sha256}{value_sha256}".encode()),
            "arms": arms,
            "trials": tuple(_judged(trial, rules) for trial in trials),
            "pending": _unanswered(state.pending, report),
        }
    )


def mean_contribution(trial: Trial) -> float | None:
    """Return the mean of what was measured, None where nothing was.

    fsum rounds alike in every Python version, sum does not.
    """
    measured = [value for value in trial.contributions if value is not None]
    return math.fsum(measured) / len(measured) if measured else None


def _unanswered(pending: tuple[Pending, ...], report: SeedReport) -> tuple[Pending, ...]:
    answered = {outcome.decision_id for outcome in report.outcomes}
    return tuple(waiting for waiting in pending if waiting.decision_id not in answered)


def _with_embargoes(
    arms: tuple[Arm, ...], pending: tuple[Pending, ...], report: SeedReport, rules: Rules
) -> tuple[Arm, ...]:
    """Leave alone for a while what the trainer refused to plant, or it would be asked for ever."""
    refused = {
        outcome.decision_id
        for outcome in report.outcomes
        if outcome.status is OutcomeStatus.REFUSED
    }
    names = {
        name for waiting in pending if waiting.decision_id in refused for name in waiting.planted
    }
    until = report.seq + rules.embargo_reports
    return tuple(arm.embargoed(until) if arm.name in names else arm for arm in arms)


def _with_kernels(arms: tuple[Arm, ...], kernels: tuple[LoadableKernel, ...]) -> tuple[Arm, ...]:
    by_name = {(arm.kernel.site, arm.kernel.blueprint_id): arm for arm in arms}
    for kernel in kernels:
        name = (kernel.site, kernel.blueprint_id)
        known = by_name.get(name)
        # Another network under a known name: what was learnt of the old one does not count.
        if known is None or known.kernel != kernel:
            by_name[name] = Arm(kernel=kernel)
    return tuple(by_name[name] for name in sorted(by_name))


def _observed(trials: tuple[Trial, ...], report: SeedReport) -> tuple[Trial, ...]:
    known = {(trial.site, trial.slot, trial.kernel_id): trial for trial in trials}
    return tuple(_observed_once(known, seed) for seed in report.seeds if seed.state in ON_TRIAL)


def _observed_once(known: dict[tuple[str, int, str], Trial], seed: SeedStatus) -> Trial:
    kernel_id = seed.kernel_id or ""
    trial = known.get(
        (seed.site, seed.slot, kernel_id),
        Trial(site=seed.site, slot=seed.slot, kernel_id=kernel_id),
    )
    if seed.state is not SeedState.ACTIVE or trial.judged:
        return trial
    measured = seed.contribution
    if measured is not None and abs(measured) > MAX_CONTRIBUTION:
        measured = None
    return trial.model_copy(update={"contributions": (*trial.contributions, measured)})


def _due(trial: Trial, rules: Rules) -> bool:
    return not trial.judged and len(trial.contributions) >= rules.trial_reports


def _judged(trial: Trial, rules: Rules) -> Trial:
    return trial.model_copy(update={"judged": True}) if _due(trial, rules) else trial


def _with_rewards(
    arms: tuple[Arm, ...],
    trials: tuple[Trial, ...],
    report: SeedReport,
    host_params: int,
    rules: Rules,
) -> tuple[Arm, ...]:
    due = {(trial.site, trial.kernel_id): trial for trial in trials if _due(trial, rules)}

    def after(arm: Arm) -> Arm:
        trial = due.get(arm.name)
        if trial is None:
            return arm
        contribution = mean_contribution(trial)
        if contribution is None or report.probe_loss is None:
            return arm.rewarded(UNMEASURABLE_REWARD)
        return arm.rewarded(
            reward_of(contribution, report.probe_loss, arm.kernel.params, host_params)
        )

    return tuple(after(arm) for arm in arms) if due else arms
