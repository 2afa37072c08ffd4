"""What a run may intend: each strategy looks at the board and proposes a plan, or nothing.

A strategy is a pure function in a file of its own and a row in `STRATEGIES`, whose order is the
order in which they move; each sees the board that the ones before it leave behind.
"""

from collections.abc import Callable

from esper.orchestrator.board import Board
from esper.orchestrator.plan import Plan
from esper.orchestrator.strategies.diversify import diversify
from esper.orchestrator.strategies.replace import replace
from topics.models import Strategy

STRATEGIES: tuple[tuple[Strategy, Callable[[Board], Plan | None]], ...] = (
    (Strategy.REPLACE, replace),
    (Strategy.DIVERSIFY, diversify),
)

__all__ = ["STRATEGIES"]
