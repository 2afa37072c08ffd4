"""Growth over several ranks: rank 0 talks to Kafka, and all ranks make the same changes.

Rank 0 relays decisions and kernels. Every rank builds the same kernels from the
same bytes, and all vote at each step: a decision is applied at one step on all of them, or not.
"""

from esper.training.ranks.decision_vote import LATE_AFTER_S, DecisionVote, Verdict, Vote
from esper.training.ranks.groups import LeaderFailed, Ranks, RanksDiffer
from esper.training.ranks.relay import RelayedLink, RelaySender

__all__ = [
    "LATE_AFTER_S",
    "DecisionVote",
    "LeaderFailed",
    "Ranks",
    "RanksDiffer",
    "RelaySender",
    "RelayedLink",
    "Verdict",
    "Vote",
]
