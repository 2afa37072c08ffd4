"""The numbers that steer growth, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits and thresholds of a run.

    A seed is on trial from planting until `trial_reports` contributions were measured at full
    alpha; it is kept when their mean is at least `keep_share` of the probe loss.
    """

    max_on_trial: int = 2
    trial_reports: int = 6
    keep_share: float = 0.01
    embargo_reports: int = 24
    alpha: float = 1.0


DEFAULT_RULES = Rules()
