"""The vote of all ranks on the oldest decision, once a step, without waiting in the step."""

import time
from enum import Enum
from typing import Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from esper.training.ranks.groups import Ranks

LATE_AFTER_S: Final = 5.0
"""Seconds that rank 0 waits for a decision to reach the other ranks; then all ranks refuse it."""


class Verdict(Enum):
    """What all ranks do with their oldest decision."""

    APPLY = "apply"
    REFUSE = "refuse"
    LATE = "late"


class Vote(NamedTuple):
    """A rank's vote on the next decision.

    Both are False while the decision, or one of its kernels, has not arrived.
    """

    able: bool = False
    unable: bool = False


class DecisionVote:
    """One small all-reduce per step, started in one step and read in the next.

    The ranks reduce gradients in between, so the read rarely waits. All ranks read the same sum
    at the same step and therefore act identically.
    """

    def __init__(self, ranks: Ranks, late_after_s: float = LATE_AFTER_S) -> None:
        self._ranks = ranks
        self._late_after_s = late_after_s
        self._able_since: float | None = None
        self._sum: Tensor | None = None
        self._work: dist.Work | None = None

    def verdict(self) -> Verdict | None:
        """Return the result of the last step's votes; None while a rank is not ready."""
        if self._work is None:
            return None
        assert self._sum is not None
        self._work.wait()
        able, unable, patient = self._sum.tolist()
        if able == self._ranks.size:
            return Verdict.APPLY
        if able + unable == self._ranks.size:
            return Verdict.REFUSE
        return Verdict.LATE if patient < self._ranks.size else None

    def vote(self, vote: Vote) -> None:
        """Begin the vote of a step."""
        counts = [vote.able, vote.unable, self._is_patient(vote)]
        self._sum = torch.tensor(counts, dtype=torch.int64)
        self._work = dist.all_reduce(self._sum, group=self._ranks.votes, async_op=True)

    def start_next(self) -> None:
        """Turn to the next decision."""
        self._able_since = None

    def reasons(self, own: str) -> str:
        """Return why ranks cannot apply the decision; a collective call of all ranks."""
        return self._ranks.reasons(own)

    def close(self, *, failed: bool) -> None:
        """Stop voting; unless the run failed, wait for the end of the last vote."""
        if self._work is not None and not failed:
            self._work.wait()
        self._work = None

    def _is_patient(self, vote: Vote) -> bool:
        if not self._ranks.leads or vote == Vote():
            return True
        now = time.monotonic()
        self._able_since = self._able_since or now
        return now - self._able_since < self._late_after_s
