"""REPLACE: the weakest seeds give way to better candidates."""

from esper.orchestrator.explain import contributed, expected, expected_share, fallen_behind
from esper.orchestrator.plan import DecisionPlan, culling
from esper.orchestrator.signals import SignalReadings, of
from esper.orchestrator.strategies.successive_halving import TournamentCandidate, candidates, losers
from esper.orchestrator.trials import mean_contribution
from esper.orchestrator.view import View
from esper.topics.models import Operation, Strategy


def replace(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Propose to cull what does harm or has failed its trial, and to plant as many in exchange.

    A new kernel takes another slot, for the old one's embargo begins with the cull; at the same
    site it has the alpha that the old one had.
    """
    weak = of(readings, "harmful", "weak")
    behind = [each for each in losers(view) if each.trial not in weak]
    if not weak and not behind:
        return None
    culls: tuple[Operation, ...] = (
        *(culling(trial) for trial in weak),
        *(culling(each.trial) for each in behind),
    )
    clauses = [(trial.site, contributed(view, trial)) for trial in weak]
    clauses += [(each.trial.site, fallen_behind(view, each.trial, each.best)) for each in behind]
    afterwards = view.after(culls)
    shares = [view.share(mean_contribution(trial)) for trial in weak]
    least = max((share for share in shares if share is not None), default=None)
    better = [
        each for each in candidates(afterwards, len(weak)) if _is_better(afterwards, each, least)
    ]
    clauses += [(each.plant.site, expected(afterwards, each.choice)) for each in better]
    return DecisionPlan.of(Strategy.REPLACE, (*culls, *(each.plant for each in better)), clauses)


def _is_better(view: View, entrant: TournamentCandidate, least: float | None) -> bool:
    """Whether a candidate may give more than what gives way did; who was never tried may."""
    found = expected_share(view, entrant.choice)
    return found is None or least is None or found > least
