"""What a run may intend, and what calls for it.

A strategy is a pure function in a file of its own and a row in `RULES`: it looks at the board and
at the signs that are on, and proposes a plan, or nothing. The first rule that is called for decides
which of them moves.
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
