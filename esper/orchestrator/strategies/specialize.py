"""SPECIALIZE: the best seed of a site gets the full alpha, and is kept once proven."""

from esper.orchestrator.explain import contributed
from esper.orchestrator.state import FULL_ALPHA, Trial
from esper.orchestrator.strategy_selection import SignalReadings
from esper.orchestrator.view import ALPHA_TOLERANCE, DecisionPlan, View
from esper.topics.models import Operation


def specialize(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Cull the seeds that the site's best dominates and raise its alpha to 1.

    A seed that passed its trial at alpha 1 is fossilized.
    """
    operations: tuple[Operation, ...] = ()
    clauses = []
    for reading in readings:
        if reading.name not in ("dominant", "proven"):
            continue
        best, rest = reading.trials[0], reading.trials[1:]
        operations += tuple(trial.cull() for trial in rest)
        text = contributed(view, best)
        if rest:
            text += f", {reading.description}"
        if (step := _next_step(view, best)) is not None:
            operations += (step[0],)
            text += f", {step[1]}"
        clauses.append((best.site, text))
    return DecisionPlan.of("specialize", operations, clauses)


def _next_step(view: View, best: Trial) -> tuple[Operation, str] | None:
    """Return the next operation for the best seed of a site, and its description."""
    if (best.alpha or 0.0) < FULL_ALPHA - ALPHA_TOLERANCE:
        reweight = view.reweight(best, FULL_ALPHA)
        return reweight, f"its alpha goes from {best.alpha:.2g} to {FULL_ALPHA:g}"
    return (best.fossilize(), "kept") if best.judged else None
