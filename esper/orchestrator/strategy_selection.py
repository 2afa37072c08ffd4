"""Which strategy a run pursues: rules over signs, in order, and when the choice may change."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from esper.orchestrator.plan import DecisionPlan
from esper.orchestrator.signals import SignalReading, SignalReadings
from esper.orchestrator.state import StrategyState
from esper.orchestrator.view import View
from esper.topics.models import ActiveStrategy, Orchestration, Strategy

Propose = Callable[[View, SignalReadings], DecisionPlan | None]
"""What a strategy does: a plan for the board as it is, given the signs that are on; or nothing."""


class Rule(NamedTuple):
    """One sign of `signals` calls for a strategy, `unless` another is on.

    An `urgent` one does not wait for the cooldown.
    """

    signals: tuple[str, ...]
    strategy: Strategy
    propose: Propose
    unless: str | None = None
    urgent: bool = False


def chosen(
    rules: Sequence[Rule],
    strategy_state: StrategyState,
    orchestration: Orchestration,
    readings: SignalReadings,
    seq: int,
) -> StrategyState:
    """Return the agenda with the strategy that the first rule called for asks for.

    The strategy stays where no rule is called for, and, after a change, for the cooldown. That
    which is pursued is held against the looser thresholds.
    """
    for rule in rules:
        pursued = rule.strategy is strategy_state.strategy
        caller = _caller(rule, readings, pursued)
        if caller is None:
            continue
        fresh = strategy_state.strategy is not None and (
            seq - strategy_state.since_seq < orchestration.cooldown_reports
        )
        if pursued or (fresh and not rule.urgent):
            return strategy_state
        where = "" if caller.site is None else f"{caller.site}: "
        return strategy_state.model_copy(
            update={
                "strategy": rule.strategy,
                "since_seq": seq,
                "why": f"{where}{caller.words}"[:200],
            }
        )
    return strategy_state


def _caller(rule: Rule, readings: SignalReadings, staying: bool) -> SignalReading | None:
    """Return the reading that calls for a rule's strategy, if one does."""
    if any(each.name == rule.unless and each.on(staying) for each in readings):
        return None
    return next((each for each in readings if each.name in rule.signals and each.on(staying)), None)


def told(
    rules: Sequence[Rule], before: StrategyState, after: StrategyState, readings: SignalReadings
) -> ActiveStrategy | None:
    """Return the course as decisions tell it: signs against the thresholds that counted."""
    if after.strategy is None:
        return None
    keeps = {name for rule in rules if rule.strategy is before.strategy for name in rule.signals}
    return ActiveStrategy(
        strategy=after.strategy,
        since_seq=after.since_seq,
        why=after.why,
        changed=(before.strategy, before.since_seq) != (after.strategy, after.since_seq),
        signals=tuple(each.told(each.name in keeps) for each in readings),
    )
