"""Where a decision gets made: a pure fold of a run's reports.

`fold(state, report, cause)` takes the state after the previous report and returns the state after
this one with the decisions it led to. It reads nothing else, so that the same reports give the
same decisions, byte for byte, in a worker or in an audit years later.
"""

from esper.orchestrator.fold import Folded, RunUnfoldable, SequenceGap, fold
from esper.orchestrator.orchestrator import Intent, SeedOrchestrator
from esper.orchestrator.state import FoldState

__all__ = [
    "FoldState",
    "Folded",
    "Intent",
    "RunUnfoldable",
    "SeedOrchestrator",
    "SequenceGap",
    "fold",
]
