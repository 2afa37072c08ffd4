"""DIVERSIFY: a tournament among kernels of different categories, with early elimination."""

from esper.orchestrator.explain import expected, fallen_behind
from esper.orchestrator.strategies.successive_halving import (
    TournamentCandidate,
    choose_candidates,
    losers,
)
from esper.orchestrator.strategy_selection import SignalReadings
from esper.orchestrator.view import DecisionPlan, View
from esper.topics.models import Operation


def diversify(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Cull the losers of each tournament round, and start a round on a plateau or when idle.

    A round fills the run up to its limit of seeds on trial.
    """
    behind = losers(view)
    culls: tuple[Operation, ...] = tuple(loser.trial.cull() for loser in behind)
    clauses = [(loser.trial.site, fallen_behind(view, loser.trial, loser.best)) for loser in behind]
    view_after = view.after(culls)
    candidates: tuple[TournamentCandidate, ...] = ()
    if any(reading.name in ("plateau", "idle") for reading in readings):
        limit = view.state.run.selection.limits.max_on_trial
        candidates = choose_candidates(view_after, limit - view_after.situation.on_trial)
    for candidate in candidates:
        text = f"{expected(view_after, candidate.choice)}, at alpha {candidate.plant.alpha:.2g}"
        clauses.append((candidate.plant.site, text))
    plants = (candidate.plant for candidate in candidates)
    return DecisionPlan.of("diversify", (*culls, *plants), clauses)
