"""DIVERSIFY: a tournament of kernels of other kinds, whose losers go early."""

from esper.orchestrator.explain import expected, fallen_behind
from esper.orchestrator.plan import Plan, culling
from esper.orchestrator.signals import Readings
from esper.orchestrator.successive_halving import Entrant, entrants, losers
from esper.orchestrator.view import View
from esper.topics.models import Operation, Strategy


def diversify(view: View, readings: Readings) -> Plan | None:
    """Propose to cull who has fallen behind in a round, and to open one where it is time.

    It is time where nothing is on trial or the probe loss is on a plateau; as many enter as may be
    on trial at once.
    """
    behind = losers(view)
    culls: tuple[Operation, ...] = tuple(culling(each.trial) for each in behind)
    clauses = [(each.trial.site, fallen_behind(view, each.trial, each.best)) for each in behind]
    afterwards = view.after(culls)
    entering: tuple[Entrant, ...] = ()
    if any(each.name in ("plateau", "idle") for each in readings):
        limit = view.state.run.selection.limits.max_on_trial
        entering = entrants(afterwards, limit - afterwards.situation.on_trial)
    for each in entering:
        alpha = f"at alpha {each.plant.alpha:.2g}"
        clauses.append((each.plant.site, f"{expected(afterwards, each.choice)}, {alpha}"))
    return Plan.of(Strategy.DIVERSIFY, (*culls, *(each.plant for each in entering)), clauses)
