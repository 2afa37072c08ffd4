"""Make the decisions of a run: a pure fold over its reports.

`fold(state, report, cause)` takes the state after the previous report and returns the next state
with the decisions. It reads nothing else, so the same reports give the same decisions, byte for
byte, in a worker or in a later audit. Read `fold.py` first.
"""

from esper.orchestrator.fold import Folded, FoldError, RunUnfoldable, SequenceGap, decision_id, fold
from esper.orchestrator.memory_update import memory_updates
from esper.orchestrator.orchestrator import Intent, SeedOrchestrator
from esper.orchestrator.state import FULL_ALPHA, FoldState

__all__ = [
    "FULL_ALPHA",
    "FoldError",
    "FoldState",
    "Folded",
    "Intent",
    "RunUnfoldable",
    "SeedOrchestrator",
    "SequenceGap",
    "decision_id",
    "fold",
    "memory_updates",
]
