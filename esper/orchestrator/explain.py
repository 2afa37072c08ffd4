"""Explain decisions: contributions in percent, reasons for no action, recorded candidates."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from esper.bandit import (
    NO_PRIOR,
    TIE_BREAK,
    ArmChoice,
    Constraint,
    HistoryKey,
    SlotId,
    share_of,
    uniform,
)
from esper.orchestrator.auditions import gained, progress
from esper.orchestrator.state import Trial
from esper.orchestrator.view import DecisionPlan, View
from esper.topics.models import Candidate, Operation, Plant, SeedCandidate

PAUSED = "no action: paused by the trainer"


def percent(share: float) -> str:
    """Return a share as `1.4%`."""
    return f"{share:.1%}"


def contributed(view: View, trial: Trial) -> str:
    """Return a seed's mean contribution, in percent of the probe loss."""
    name, contribution = view.blueprint_of(trial), trial.mean_contribution()
    share, first = view.share(contribution), view.state.first_loss
    if contribution is None or share is None:
        return f"{name} makes the probe loss impossible to measure"
    of_first = f" ({percent(contribution / first)} of the first)" if first else ""
    reports = len(trial.contributions)
    noun = "report" if reports == 1 else "reports"
    return f"{name} contributed {percent(share)}{of_first} for {reports} {noun}"


def expected_share(view: View, choice: ArmChoice) -> float | None:
    """Return a candidate's mean contribution as a share of the probe loss; None if never tried."""
    kernel = view.arm(choice).kernel
    history = view.state.tracker.of(HistoryKey(kernel.site, None, kernel.blueprint_id))
    if history is None:
        return None
    return share_of(history.mean, kernel.params, view.state.run.run_config.host_params)


def expected(view: View, choice: ArmChoice) -> str:
    """Return a candidate's expected contribution, from its own trials or from its prior."""
    arm = view.arm(choice)
    name, params = arm.kernel.blueprint_id, arm.kernel.params
    host_params = view.state.run.run_config.host_params
    history = view.state.tracker.of(HistoryKey(arm.kernel.site, None, name))
    round_ = view.state.audition_round
    if round_ is not None and (one := round_.of(arm.kernel.site, arm.kernel.kernel_id)):
        return f"{name} {gained(one)} in its audition"
    if history is not None:
        share = share_of(history.mean, params, host_params)
        if history.pulls == 1:
            return f"{name} is expected to give {percent(share)}, by one trial"
        deviation = sqrt(history.variance)
        low = share_of(history.mean - deviation, params, host_params)
        high = share_of(history.mean + deviation, params, host_params)
        return f"{name} is expected to give {100 * share:.1f} ± {percent((high - low) / 2)}"
    prior = view.state.arms.arm_stats.priors.get(choice.arm, NO_PRIOR)
    if prior.weight:
        share = share_of(prior.mean, params, host_params)
        return f"{name} was never tried and is believed to give {percent(share)}"
    return f"{name} was never tried"


def fallen_behind(view: View, trial: Trial, best: Trial) -> str:
    """Return the contribution of a seed next to that of the best of its tournament round."""
    best_share = view.share(best.mean_contribution())
    best_name = f"{view.blueprint_of(best)} at {best.site}"
    return f"{contributed(view, trial)} and {best_name} {percent(best_share or 0.0)}"


def lockstep_answer(view: View, decisions: int) -> DecisionPlan:
    """Return the plan without operations that ends the answer to a lockstep run's report.

    Its reason states the number of decisions before it, or why the report led to none.
    """
    return DecisionPlan((), _why_no_more(view, decisions))


def why_idle(view: View) -> str | None:
    """Return why no arm can be planted although the trial limit has room; None if one can.

    The reason names constraints and no number of arms, which would change with every report.
    """
    limits = view.state.run.selection.limits
    if not view.state.run.selects:
        return None
    if view.report.paused:
        return PAUSED
    if view.state.pending or not view.state.arms:
        return None
    if view.situation.on_trial >= limits.max_on_trial:
        return None
    codes = set(view.codes().tolist())
    if Constraint.NOT_AUDITIONED in codes and Constraint.NONE not in codes:
        found = progress(view)
        return None if found is None else f"no action: {found}"
    if view.state.strategy_state is not None and Constraint.NONE in codes:
        return None
    names = sorted(Constraint(code).label for code in codes)
    return f"no action: all {len(view.state.arms)} arms are ruled out by {', '.join(names)}"


def _why_no_more(view: View, decisions: int) -> str:
    if decisions:
        noun = "decision is" if decisions == 1 else f"{decisions} decisions are"
        return f"the {noun} the whole answer to report {view.report.seq}"
    if view.report.paused:
        return PAUSED
    if pending := len(view.state.pending):
        noun = "decision is" if pending == 1 else "decisions are"
        return f"nothing is decided: {pending} earlier {noun} not answered yet"
    if not view.state.arms:
        return "nothing is decided: no kernel is on offer"
    if view.state.strategy_state is not None and not view.codes().all():
        return f"nothing is decided: {_trials_go_on(view.state.trials)}"
    if Constraint.NOT_AUDITIONED in view.codes() and (found := progress(view)) is not None:
        return f"nothing is decided: {found}"
    exclusions = [text or "" for _, text in view.exclusions()]
    return f"nothing is decided: no trial is over and {_all_excluded(exclusions)}"


def _trials_go_on(trials: Sequence[Trial]) -> str:
    noun = "trial goes" if len(trials) == 1 else "trials go"
    return f"{len(trials)} {noun} on" if trials else "the strategy has only just changed"


def _all_excluded(exclusions: list[str]) -> str:
    if len(set(exclusions)) == 1:
        return exclusions[0]
    return f"none of {len(exclusions)} arms may be planted"


def recorded_arms(view: View, operations: tuple[Operation, ...]) -> tuple[Candidate, ...]:
    """Return all arms as the decision with these operations records them, the best first."""
    run, arms = view.state.run, view.state.arms
    if not arms:
        return ()
    scores = run.selector.arm_scores(view.selector_input(), view.report.seq).tolist()

    planted = [(op.site, op.kernel_id) for op in operations if isinstance(op, Plant)]
    first = {arms.arm_features.by_kernel[name] for name in planted}

    def rank(index: int) -> tuple[float, float, int]:
        if run.selects:
            return -scores[index], float(index not in first), index
        chance = uniform(run.run_config.seed, view.report.seq, TIE_BREAK, index)
        return -scores[index], chance, index

    exclusions = view.exclusions()
    return tuple(
        _recorded_arm(view, index, scores[index], *exclusions[index])
        for index in sorted(range(len(scores)), key=rank)
    )


def _recorded_arm(
    view: View, index: int, score: float, constraint: Constraint, excluded: str | None
) -> Candidate:
    arm, run = view.state.arms.rows[index], view.state.run
    prior = view.state.arms.arm_stats.priors.get(index)
    return Candidate(
        site=arm.kernel.site,
        blueprint_id=arm.kernel.blueprint_id,
        kernel_id=arm.kernel.kernel_id,
        pulls=arm.pulls,
        mean=arm.mean if arm.pulls else None,
        score=None if score == np.inf else score,
        excluded=excluded,
        constraint=constraint.label if run.selects and constraint else None,
        prior_weight=prior.weight if prior else None,
        prior_mean=prior.mean if prior else None,
    )


def recorded_slots(view: View) -> tuple[SeedCandidate, ...]:
    """Return all slots as decisions record them, the best first; empty without a slot policy."""
    run = view.state.run
    if run.attention is None:
        return ()
    scores = run.selector.slot_scores(view.selector_input(), view.report.seq).tolist()
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return tuple(_recorded_slot(view, run.slot_ids[index], scores[index]) for index in order)


def _recorded_slot(view: View, slot_id: SlotId, score: float) -> SeedCandidate:
    history = view.state.tracker.of(HistoryKey(*slot_id))
    return SeedCandidate(
        site=slot_id.site,
        slot=slot_id.slot,
        pulls=history.pulls if history else 0,
        mean=history.mean if history else None,
        score=None if score == np.inf else score,
        free=slot_id not in view.closed and not view.situation.everywhere,
    )
