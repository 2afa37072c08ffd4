"""REPLACE: the weakest seeds give way to better candidates."""

from esper.orchestrator.explain import contributed, expected, expected_share, fallen_behind
from esper.orchestrator.strategies.successive_halving import (
    TournamentCandidate,
    choose_candidates,
    losers,
)
from esper.orchestrator.strategy_selection import SignalReadings, trials_of
from esper.orchestrator.view import DecisionPlan, View
from esper.topics.models import Operation


def replace(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Cull seeds that do harm or failed their trial, and plant the same number of candidates.

    A candidate takes another slot, because the culled slot's embargo begins. At the same site it
    gets the alpha that the culled seed had.
    """
    weak = trials_of(readings, "harmful", "weak")
    behind = [loser for loser in losers(view) if loser.trial not in weak]
    if not weak and not behind:
        return None
    culls: tuple[Operation, ...] = (
        *(trial.cull() for trial in weak),
        *(loser.trial.cull() for loser in behind),
    )
    clauses = [(trial.site, contributed(view, trial)) for trial in weak]
    clauses += [
        (loser.trial.site, fallen_behind(view, loser.trial, loser.best)) for loser in behind
    ]
    view_after = view.after(culls)
    shares = [view.share(trial.mean_contribution()) for trial in weak]
    best_culled = max((share for share in shares if share is not None), default=None)
    better = [
        candidate
        for candidate in choose_candidates(view_after, len(weak))
        if _is_better(view_after, candidate, best_culled)
    ]
    clauses += [
        (candidate.plant.site, expected(view_after, candidate.choice)) for candidate in better
    ]
    plants = (candidate.plant for candidate in better)
    return DecisionPlan.of("replace", (*culls, *plants), clauses)


def _is_better(view: View, candidate: TournamentCandidate, best_culled: float | None) -> bool:
    """Return whether a candidate was never tried, or gave more than the culled seeds."""
    share = expected_share(view, candidate.choice)
    return share is None or best_culled is None or share > best_culled
