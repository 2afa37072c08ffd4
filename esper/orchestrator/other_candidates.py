"""The candidates that a decision lists, and the records of the others.

A run with hundreds of arms would repeat all of them in each decision. A decision lists the best few
and the digest of the others, whose records only audits read.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from esper.topics.codec import encode, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Candidate,
    DecisionCandidates,
    Operation,
    OtherCandidates,
    Plant,
)

LISTED_CANDIDATES: Final = 16
"""Candidates that a decision of a new run lists, beside those that it plants."""

CANDIDATES_PER_RECORD: Final = 2_000
"""Most candidates of one record: with the longest names they take 3 MiB.

Audits derive the same parts again, so another number needs another field of the run's
configuration.
"""


class RankedCandidates(NamedTuple):
    """The candidates that a decision lists, and the others, both in rank order."""

    listed: tuple[Candidate, ...]
    others: tuple[Candidate, ...] = ()

    @classmethod
    def of(
        cls, ranked: tuple[Candidate, ...], operations: Sequence[Operation], listed: int | None
    ) -> "RankedCandidates":
        """Return the best `listed` candidates and the planted ones, and the others.

        None lists all candidates.
        """
        if listed is None or len(ranked) <= listed:
            return cls(ranked)
        planted = {(op.site, op.kernel_id) for op in operations if isinstance(op, Plant)}
        best = list(ranked[:listed])
        others: list[Candidate] = []
        for candidate in ranked[listed:]:
            is_planted = (candidate.site, candidate.kernel_id) in planted
            (best if is_planted else others).append(candidate)
        return cls(tuple(best), tuple(others))

    def records(self, run_id: str, seq: int, index: int) -> tuple[DecisionCandidates, ...]:
        """Return the events of the other candidates of a decision; empty without any."""
        starts = range(0, len(self.others), CANDIDATES_PER_RECORD)
        return tuple(
            DecisionCandidates(
                run_id=run_id,
                decision_id=AdaptationDecision.id_of(run_id, seq, index),
                seq=seq,
                index=index,
                part=part,
                parts=len(starts),
                candidates=self.others[start : start + CANDIDATES_PER_RECORD],
            )
            for part, start in enumerate(starts)
        )


def digest_of(records: Sequence[DecisionCandidates]) -> OtherCandidates | None:
    """Return number and digest of the candidates in a decision's records; None without any."""
    if not records:
        return None
    return OtherCandidates(
        count=sum(len(event.candidates) for event in records),
        sha256=sha256_of(b"".join(map(encode, records))),
    )
