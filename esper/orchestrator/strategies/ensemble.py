"""ENSEMBLE: comparable seeds of a site share its alpha, and are all kept."""

from collections.abc import Sequence
from math import fsum

import numpy as np

from esper.bandit import exp
from esper.orchestrator.explain import contributed
from esper.orchestrator.plan import DecisionPlan, culling, keeping
from esper.orchestrator.signals import SignalReading, SignalReadings
from esper.orchestrator.state import Trial
from esper.orchestrator.trials import mean_contribution
from esper.orchestrator.view import ALPHA_TOLERANCE, View
from esper.topics.models import Operation, Strategy

LEAST = 1e-6
"""Of the weight of the best, the least that another one has."""


def ensemble(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Propose to weigh comparable seeds of a site once their trials are over, then to keep them.

    The sum of their alphas stays what it was. Of several, those that are not comparable with the
    best are culled.
    """
    operations: tuple[Operation, ...] = ()
    clauses = []
    for each in readings:
        if each.name == "comparable" and all(trial.judged for trial in each.trials):
            step, what = _next_step(view, each)
            operations += step
            clauses.append((each.trials[0].site, what))
    return DecisionPlan.of(Strategy.ENSEMBLE, operations, clauses)


def _next_step(view: View, reading: SignalReading) -> tuple[tuple[Operation, ...], str]:
    """Return what is next for the seeds of a site, also in words."""
    alike, others = _comparable(view, reading)
    culls = tuple(culling(trial) for trial in others)
    total = fsum(trial.alpha or 0.0 for trial in reading.trials)
    weights = _weights(view, alike, total)
    moved = [
        (trial, weight)
        for trial, weight in zip(alike, weights, strict=True)
        if abs(weight - (trial.alpha or 0.0)) > ALPHA_TOLERANCE
    ]
    names = " and ".join(contributed(view, trial) for trial in alike)
    if moved and not any(trial.settled for trial in alike):
        changes = tuple(view.reweight(trial, weight) for trial, weight in moved)
        told = ", ".join(f"{weight:.2g}" for weight in weights)
        return (*culls, *changes), f"{names}, weighed {told}"
    return (*culls, *(keeping(trial) for trial in alike)), f"{names}, kept together"


def _comparable(view: View, reading: SignalReading) -> tuple[Sequence[Trial], Sequence[Trial]]:
    """Return the seeds that are comparable with the best, and the others."""
    means = [mean_contribution(trial) or 0.0 for trial in reading.trials]
    least = means[0] / reading.stay
    alike = [trial for trial, mean in zip(reading.trials, means, strict=True) if mean >= least]
    return alike, [trial for trial in reading.trials if trial not in alike]


def _weights(view: View, trials: Sequence[Trial], total: float) -> list[float]:
    orchestration = view.orchestration
    if orchestration.ensemble == "equal":
        return [total / len(trials)] * len(trials)
    shares = np.array([view.share(mean_contribution(trial)) or 0.0 for trial in trials])
    # The greatest is taken off so that nothing overflows; the weights are the same.
    raised = np.maximum(exp((shares - shares.max()) / orchestration.temperature), LEAST).tolist()
    together = fsum(raised)
    return [total * each / together for each in raised]
