"""Strategies, and the rules that choose them.

A strategy is a pure function in a module of its own and a row in `RULES`. It gets the view and the
signals that are on, and returns a plan, or None for no change. The first rule that applies chooses.
"""

from esper.orchestrator.strategies.diversify import diversify
from esper.orchestrator.strategies.ensemble import ensemble
from esper.orchestrator.strategies.replace import replace
from esper.orchestrator.strategies.specialize import specialize
from esper.orchestrator.strategy_selection import Rule
from esper.topics.models import Strategy

RULES: tuple[Rule, ...] = (
    Rule(("harmful",), Strategy.REPLACE, replace, urgent=True),
    Rule(("weak",), Strategy.REPLACE, replace),
    Rule(("dominant", "proven"), Strategy.SPECIALIZE, specialize),
    Rule(("comparable",), Strategy.ENSEMBLE, ensemble),
    Rule(("plateau", "idle"), Strategy.DIVERSIFY, diversify, unless="spent"),
)

__all__ = ["RULES"]
