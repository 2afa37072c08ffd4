"""Auditions in the fold: which kernels to try off the training path, and which of them passed.

Rounds of successive halving (Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016) on a snapshot of the plateaued host. A round's results
hold for the host that the snapshot shows: a kept kernel ends the round.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final

import numpy as np

from esper.orchestrator.audition_round import (
    AuditionRound,
    Name,
    by_gain,
    is_complete,
    rung_is_over,
    started,
)
from esper.orchestrator.view import DecisionPlan, View
from esper.topics.models import (
    MAX_AUDITIONED,
    Audition,
    AuditionResult,
    Auditions,
    Fossilize,
    Plant,
)

STRATEGY: Final = "audition"
FAST_SHARE: Final = 5
"""One in this many of the kernels that go on is chosen by its slope."""

UNKNOWN: Final = "0" * 64
"""The snapshot of a round whose decision has no id yet."""


def with_plans(
    round_: AuditionRound, plans: Sequence[DecisionPlan], decision_ids: Sequence[str], seq: int
) -> AuditionRound:
    """Return the round after the decisions of report `seq`."""
    for plan, decision_id in zip(plans, decision_ids, strict=True):
        if plan.auditions:
            round_ = started(round_, plan.auditions, decision_id, seq)
        planted = tuple((op.site, op.kernel_id) for op in plan.operations if isinstance(op, Plant))
        kept = any(isinstance(op, Fossilize) for op in plan.operations)
        if planted or kept:
            round_ = round_.model_copy(
                update={"planted": round_.planted + planted, "kept": round_.kept or kept}
            )
    return round_


def promoted(results: Sequence[AuditionResult], settings: Auditions) -> list[AuditionResult]:
    """Return the kernels that go on to the next rung: most by gain, some by slope."""
    ranked = by_gain(results)
    count = max(settings.finalists, ceil(settings.kept_share * len(ranked)))
    by_slope = count // FAST_SHARE
    best, rest = ranked[: count - by_slope], ranked[count - by_slope :]
    rest.sort(key=lambda one: (-(one.slope or 0.0), one.site, one.kernel_id))
    return best + rest[:by_slope]


def next_auditions(view: View, why: str | None) -> DecisionPlan | None:
    """Return the plan that starts a round or its next rung; None where neither is due.

    `why` says that the host has plateaued; None: it has not.
    """
    round_, settings = _round(view), _settings(view)
    if round_.snapshot_id is not None and not round_.kept:
        if not rung_is_over(round_, settings, view.report.seq):
            return None
        if not is_complete(round_, settings, view.report.seq):
            return _next_rung(view, round_, settings)
    return _new_round(view, round_, settings, why)


def _next_rung(view: View, round_: AuditionRound, settings: Auditions) -> DecisionPlan:
    going_on = promoted(round_.rung_results, settings)
    rung = round_.rung + 1
    steps = settings.rung_steps[rung]
    auditions = _by_site([(one.site, one.kernel_id) for one in going_on], rung, steps, round_)
    best = going_on[0]
    reason = (
        f"AUDITION: the best {len(going_on)} of {len(round_.results)} go on to {steps} steps; "
        f"first is {described(view, best)}"
    )
    return DecisionPlan((), reason, auditions=auditions)


def _new_round(
    view: View, round_: AuditionRound, settings: Auditions, why: str | None
) -> DecisionPlan | None:
    seq = view.report.seq
    rested = round_.snapshot_id is None or round_.kept
    # The longer nothing is found, the less likely it is that another round finds something.
    pause = settings.again_reports * 2**round_.fruitless
    rested = rested or seq - round_.since_seq >= pause
    settled = seq - round_.arrival_seq >= settings.settle_reports
    if why is None or not (rested and settled) or view.state.trials or view.situation.auditioned:
        return None
    features = view.state.arms.arm_features
    allowed = [features.kernels[at] for at in np.flatnonzero(features.banned == 0).tolist()]
    names = _in_turn([(kernel.site, kernel.kernel_id) for kernel in allowed])[:MAX_AUDITIONED]
    if not names:
        return None
    steps = settings.rung_steps[0]
    reason = (
        f"AUDITION: {len(names)} kernels train for {steps} steps beside the host, because {why}"
    )
    return DecisionPlan((), reason, auditions=_by_site(names, 0, steps, None))


def _in_turn(names: Sequence[Name]) -> list[Name]:
    """Return the names so that each site has its turn, because a round may not hold all."""
    seen: dict[str, int] = {}
    ranked = []
    for site, kernel_id in names:
        seen[site] = seen.get(site, 0) + 1
        ranked.append((seen[site], site, kernel_id))
    return [(site, kernel_id) for _, site, kernel_id in sorted(ranked)]


def _by_site(
    names: Sequence[Name], rung: int, steps: int, round_: AuditionRound | None
) -> tuple[Audition, ...]:
    sites: dict[str, list[str]] = {}
    for site, kernel_id in sorted(names):
        sites.setdefault(site, []).append(kernel_id)
    snapshot_id = UNKNOWN if round_ is None else round_.snapshot_id or UNKNOWN
    return tuple(
        Audition(
            site=site,
            kernel_ids=tuple(kernel_ids),
            rung=rung,
            steps=steps,
            snapshot_id=snapshot_id,
        )
        for site, kernel_ids in sites.items()
    )


def with_snapshot(auditions: Sequence[Audition], decision_id: str) -> tuple[Audition, ...]:
    """Return the auditions of a decision; those of rung 0 get their snapshot from it."""
    return tuple(
        one.model_copy(update={"snapshot_id": decision_id}) if one.rung == 0 else one
        for one in auditions
    )


def progress(view: View) -> str | None:
    """Return what the auditions say where no kernel may be planted; None without a selection."""
    round_, settings = view.state.audition_round, view.state.run.selection.auditions
    if round_ is None or settings is None:
        return None
    if round_.snapshot_id is None or round_.kept:
        return "kernels are auditioned when the probe loss has plateaued"
    if not is_complete(round_, settings, view.report.seq):
        return f"rung {round_.rung} of the auditions is running"
    if round_.planted:
        return "the kernels that passed their audition were tried"
    best = next(iter(by_gain(round_.rung_results)), None)
    found = "none could be measured" if best is None else f"the best is {described(view, best)}"
    return f"no kernel passed its audition; {found}"


def described(view: View, result: AuditionResult) -> str:
    """Return a result in words: `line-conv at fc1, which gained 0.81 ± 0.05 (control 0.10)`."""
    arm = view.state.arms.on(result.site, result.kernel_id)
    name = arm.kernel.blueprint_id if arm else result.kernel_id[:12]
    return f"{name} at {result.site}, which {gained(result)}"


def gained(result: AuditionResult) -> str:
    """Return a gain in words: `gained 0.81 ± 0.05 (control 0.10)`."""
    text = f"gained {result.gain:.3g} ± {result.error or 0.0:.2g}"
    return text if result.control_gain is None else f"{text} (control {result.control_gain:.3g})"


def _round(view: View) -> AuditionRound:
    round_ = view.state.audition_round
    assert round_ is not None
    return round_


def _settings(view: View) -> Auditions:
    settings = view.state.run.selection.auditions
    assert settings is not None
    return settings
