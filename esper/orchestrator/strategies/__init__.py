"""Strategies, and the rules that choose them.

A strategy is a pure function in a module of its own and a row in `RULES`. It gets the view and the
signals that are on, and returns a plan, or None for no change. The first rule that applies chooses.
An `optional` rule applies only to runs that name its strategy in `optional_strategies`.
"""

from esper.orchestrator.strategies.diversify import diversify
from esper.orchestrator.strategies.ensemble import ensemble
from esper.orchestrator.strategies.replace import replace
from esper.orchestrator.strategies.specialize import specialize
from esper.orchestrator.strategy_selection import Rule
from esper.topics.models import Orchestration

RULES: tuple[Rule, ...] = (
    Rule(("harmful",), "replace", replace, urgent=True),
    Rule(("weak",), "replace", replace),
    Rule(("dominant", "proven"), "specialize", specialize),
    Rule(("comparable",), "ensemble", ensemble),
    Rule(("plateau", "idle"), "diversify", diversify, unless="spent"),
)


def rules_for(orchestration: Orchestration) -> tuple[Rule, ...]:
    """Return the rules of a run, in order.

    Raises:
        ValueError: `optional_strategies` names an unknown strategy.
    """
    known = {rule.strategy for rule in RULES if rule.optional}
    for name in orchestration.optional_strategies:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ValueError(f"there is no optional strategy {name!r}; known are: {names}")
    wanted = orchestration.optional_strategies
    return tuple(rule for rule in RULES if not rule.optional or rule.strategy in wanted)


__all__ = ["RULES", "rules_for"]
