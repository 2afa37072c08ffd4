"""The vote of all ranks on the oldest decision, once a step, without waiting in the step."""

import time
from enum import Enum
from typing import Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from esper.training.ranks.groups import Ranks

LATE_AFTER_S: Final = 5.0
"""How long rank 0 waits for the others to have what it has; then all go on without."""


class Verdict(Enum):
    """What all ranks do with their oldest decision."""

    APPLY = "apply"
    REFUSE = "refuse"
    GO_ON = "go on without"


class Vote(NamedTuple):
    """What a rank says of the decision that is next: whether it can do it, or cannot.

    Neither while the decision, or a kernel of it, has not come yet.
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
        return Verdict.GO_ON if patient < self._ranks.size else None

    def vote(self, vote: Vote) -> None:
        """Begin the vote of a step."""
        counts = [vote.able, vote.unable, self._is_patient(vote)]
        self._sum = torch.tensor(counts, dtype=torch.int64)
        self._work = dist.all_reduce(self._sum, group=self._ranks.votes, async_op=True)

    def start_next(self) -> None:
        """Turn to the next decision."""
        self._able_since = None

    def reasons(self, own: str) -> str:
        """Return why ranks could not do it; all ask at the same step, and wait for each other."""
        return self._ranks.reasons(own)

    def close(self, *, failed: bool) -> None:
        """Vote no more; after a run that did not fail, once the last vote has come to its end."""
        if self._work is not None and not failed:
            self._work.wait()
        self._work = None

    def _is_patient(self, vote: Vote) -> bool:
        if not self._ranks.leads or vote == Vote():
            return True
        now = time.monotonic()
        self._able_since = self._able_since or now
        return now - self._able_since < self._late_after_s
