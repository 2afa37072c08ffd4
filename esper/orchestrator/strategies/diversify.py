"""DIVERSIFY: a tournament of kernels of other kinds, whose losers go early."""

from esper.orchestrator.explain import expected, fallen_behind
from esper.orchestrator.plan import DecisionPlan, culling
from esper.orchestrator.signals import SignalReadings
from esper.orchestrator.strategies.successive_halving import TournamentCandidate, candidates, losers
from esper.orchestrator.view import View
from esper.topics.models import Operation, Strategy


def diversify(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Propose to cull who has fallen behind in a round, and to open one where it is time.

    It is time where nothing is on trial or the probe loss is on a plateau; as many enter as may be
    on trial at once.
    """
    behind = losers(view)
    culls: tuple[Operation, ...] = tuple(culling(each.trial) for each in behind)
    clauses = [(each.trial.site, fallen_behind(view, each.trial, each.best)) for each in behind]
    afterwards = view.after(culls)
    entering: tuple[TournamentCandidate, ...] = ()
    if any(each.name in ("plateau", "idle") for each in readings):
        limit = view.state.run.selection.limits.max_on_trial
        entering = candidates(afterwards, limit - afterwards.situation.on_trial)
    for each in entering:
        alpha = f"at alpha {each.plant.alpha:.2g}"
        clauses.append((each.plant.site, f"{expected(afterwards, each.choice)}, {alpha}"))
    return DecisionPlan.of(
        Strategy.DIVERSIFY, (*culls, *(each.plant for each in entering)), clauses
    )
