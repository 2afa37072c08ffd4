"""Make the decisions of a run: a pure fold over its reports.

`fold(state, report, cause)` takes the state after the previous report and returns the next state
with the decisions and the candidates that they do not list. It reads nothing else, so the same
reports give the same decisions, byte for byte, in a worker or in a later audit. Read `folding.py`
first.
"""

from esper.orchestrator.explain import recorded_arms
from esper.orchestrator.folding import (
    Folded,
    FoldError,
    Intent,
    RunUnfoldable,
    SeedOrchestrator,
    SequenceGap,
    fold,
)
from esper.orchestrator.other_candidates import LISTED_CANDIDATES
from esper.orchestrator.state import FULL_ALPHA, FoldState, PendingDecision, memory_updates
from esper.orchestrator.strategies import rules_for
from esper.orchestrator.trials import INDEPENDENT_TRIALS, apply_report
from esper.orchestrator.view import build_view

__all__ = [
    "FULL_ALPHA",
    "INDEPENDENT_TRIALS",
    "LISTED_CANDIDATES",
    "FoldError",
    "FoldState",
    "Folded",
    "Intent",
    "PendingDecision",
    "RunUnfoldable",
    "SeedOrchestrator",
    "SequenceGap",
    "apply_report",
    "build_view",
    "fold",
    "memory_updates",
    "recorded_arms",
    "rules_for",
]
