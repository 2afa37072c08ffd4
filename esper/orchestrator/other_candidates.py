"""The candidates that a decision lists, and the records of the others.

A run with hundreds of arms would repeat all of them in each decision. A decision lists the best few
and the digest of the others, whose records only audits read.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from esper.topics.codec import encode_all, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Candidate,
    DecisionCandidates,
    Operation,
    OtherCandidates,
    Plant,
)

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

    def digest(self) -> OtherCandidates | None:
        """Return number and digest of the other candidates; None without any."""
        if not self.others:
            return None
        return OtherCandidates(count=len(self.others), sha256=sha256_of(encode_all(self.others)))

    def records(self, decision: AdaptationDecision) -> Iterator[DecisionCandidates]:
        """Yield the events of the other candidates; none without any."""
        starts = range(0, len(self.others), CANDIDATES_PER_RECORD)
        for part, start in enumerate(starts):
            yield DecisionCandidates(
                run_id=decision.run_id,
                decision_id=decision.decision_id,
                seq=decision.seq,
                index=decision.index,
                part=part,
                parts=len(starts),
                candidates=self.others[start : start + CANDIDATES_PER_RECORD],
            )
