"""The facts of a finished run as plain values."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from esper.topics.models import OutcomeStatus
from esper.training import RunHistory
from esper.workers.cli.train.trainer import GrownRun

Facts = dict[str, Any]


def summary(run: GrownRun) -> Facts:
    """Return the facts of a run, ready for JSON."""
    return {
        "run_id": run.run_id,
        "steps": run.result.steps,
        "test_loss": run.result.test_loss,
        "test_accuracy": run.result.test_accuracy,
        "params": run.result.params,
        "seeds": [record._asdict() for record in run.run_history.seed_records()],
        "reasons": reasons(run.run_history),
        "decisions": len(run.run_history.decisions),
        "decision_to_active_ms": spread(run.decision_to_active_ms),
        "sealed": run.run_history.sealed,
        "exported": str(run.exported),
        "went_on_after_epoch": run.resumed_after,
    }


def reasons(run_history: RunHistory) -> list[Facts]:
    """Return step and reason of each applied decision of the run's strategy, in order."""
    plans = []
    for decision in run_history.decisions:
        outcome = run_history.outcomes.get(decision.decision_id)
        applied = outcome is not None and outcome.status is OutcomeStatus.APPLIED
        if outcome is not None and applied and decision.active_strategy is not None:
            plans.append({"step": outcome.step, "reason": decision.reason})
    return plans


def spread(values: Sequence[float]) -> dict[str, float | int] | None:
    """Return count, median and 90th percentile of measurements; None for an empty sequence."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": statistics.median(ordered),
        "p90": ordered[math.ceil(0.9 * (len(ordered) - 1))],
    }
