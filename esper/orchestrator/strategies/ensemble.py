"""ENSEMBLE: comparable seeds of a site share its alpha, and are all kept."""

from collections.abc import Sequence
from math import fsum
from typing import Final

import numpy as np

from esper.bandit import exp
from esper.orchestrator.explain import contributed
from esper.orchestrator.state import Trial
from esper.orchestrator.strategy_selection import SignalReading, SignalReadings
from esper.orchestrator.view import ALPHA_TOLERANCE, DecisionPlan, View
from esper.topics.models import Operation

MIN_RELATIVE_WEIGHT: Final = 1e-6
"""The least weight of a seed, relative to the best one's."""


def ensemble(view: View, readings: SignalReadings) -> DecisionPlan | None:
    """Reweight a site's comparable seeds once all are judged, then fossilize them.

    The sum of their alphas stays the same. Seeds that are not comparable with the best are culled.
    """
    operations: tuple[Operation, ...] = ()
    clauses = []
    for reading in readings:
        if reading.name == "comparable" and all(trial.judged for trial in reading.trials):
            step, text = _next_step(view, reading)
            operations += step
            clauses.append((reading.trials[0].site, text))
    return DecisionPlan.of("ensemble", operations, clauses)


def _next_step(view: View, reading: SignalReading) -> tuple[tuple[Operation, ...], str]:
    """Return the next operations for the seeds of a site, and their description."""
    comparable, others = _comparable(reading)
    culls = tuple(trial.cull() for trial in others)
    total = fsum(trial.alpha or 0.0 for trial in reading.trials)
    weights = _weights(view, comparable, total)
    changed = [
        (trial, weight)
        for trial, weight in zip(comparable, weights, strict=True)
        if abs(weight - (trial.alpha or 0.0)) > ALPHA_TOLERANCE
    ]
    names = " and ".join(contributed(view, trial) for trial in comparable)
    if changed and not any(trial.settled for trial in comparable):
        reweights = tuple(view.reweight(trial, weight) for trial, weight in changed)
        weight_text = ", ".join(f"{weight:.2g}" for weight in weights)
        return (*culls, *reweights), f"{names}, weighed {weight_text}"
    return (*culls, *(trial.fossilize() for trial in comparable)), f"{names}, kept together"


def _comparable(reading: SignalReading) -> tuple[Sequence[Trial], Sequence[Trial]]:
    """Return the seeds that are comparable with the best, and the others."""
    means = [trial.mean_contribution() or 0.0 for trial in reading.trials]
    least = means[0] / reading.stay
    comparable = [trial for trial, mean in zip(reading.trials, means, strict=True) if mean >= least]
    return comparable, [trial for trial in reading.trials if trial not in comparable]


def _weights(view: View, trials: Sequence[Trial], total: float) -> list[float]:
    """Return alphas with sum `total`: equal ones, or a softmax over the contributions."""
    orchestration = view.orchestration
    if orchestration.ensemble == "equal":
        return [total / len(trials)] * len(trials)
    shares = np.array([view.share(trial.mean_contribution()) or 0.0 for trial in trials])
    # Subtracting the maximum avoids overflow and does not change the softmax.
    exponentials = np.maximum(
        exp((shares - shares.max()) / orchestration.temperature), MIN_RELATIVE_WEIGHT
    ).tolist()
    normaliser = fsum(exponentials)
    return [total * value / normaliser for value in exponentials]
