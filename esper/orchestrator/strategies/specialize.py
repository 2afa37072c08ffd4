"""SPECIALIZE: the best seed of a site gets the whole alpha, and is kept once it is proven."""

from esper.orchestrator.explain import contributed
from esper.orchestrator.plan import DecisionPlan, culling, keeping
from esper.orchestrator.signals import SignalReadings
from esper.orchestrator.state import FULL_ALPHA, Trial
from esper.orchestrator.view import ALPHA_TOLERANCE, View
from esper.topics.models import Operation, Strategy


def specialize(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Propose to cull whom the best of a site dominates and to raise its alpha to the whole.

    What has passed its trial with the whole alpha is kept for good.
    """
    operations: tuple[Operation, ...] = ()
    clauses = []
    for each in readings:
        if each.name not in ("dominant", "proven"):
            continue
        best, rest = each.trials[0], each.trials[1:]
        operations += tuple(culling(trial) for trial in rest)
        what = f"{contributed(view, best)}, {each.words}" if rest else contributed(view, best)
        if (step := _next_step(view, best)) is not None:
            operations += (step[0],)
            what += f", {step[1]}"
        clauses.append((best.site, what))
    return DecisionPlan.of(Strategy.SPECIALIZE, operations, clauses)


def _next_step(view: View, best: Trial) -> tuple[Operation, str] | None:
    """Return what is next for the best of a site, also in words."""
    if (best.alpha or 0.0) < FULL_ALPHA - ALPHA_TOLERANCE:
        return view.reweight(
            best, FULL_ALPHA
        ), f"its alpha goes from {best.alpha:.2g} to {FULL_ALPHA:g}"
    return (keeping(best), "kept") if best.judged else None
