"""`GrowthStatus`: whether kernels and decisions reach a run."""

from enum import StrEnum
from typing import NamedTuple


class GrowthState(StrEnum):
    """Whether kernels and decisions reach a run."""

    GROWING = "growing"
    PAUSED = "paused"
    WAITING = "waiting"
    FAILED = "failed"
    ENDED = "ended"


class GrowthStatus(NamedTuple):
    """The state of a run, and the reason if it is waiting for the broker or has failed.

    `refused_decisions` counts records on the decision topic that no trusted key has signed, or that
    do not belong to this run, up to its last report. They are not applied.
    """

    state: GrowthState
    reason: str | None = None
    refused_decisions: int = 0
