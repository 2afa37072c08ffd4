"""The orchestrator: given a run as it is, what it intends, and the plans that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from esper.orchestrator.independent_trials import INDEPENDENT_TRIALS
from esper.orchestrator.manual_requests import answers
from esper.orchestrator.plan import DecisionPlan
from esper.orchestrator.signals import SignalReadings, read
from esper.orchestrator.state import FoldState, StrategyState
from esper.orchestrator.strategies import RULES
from esper.orchestrator.strategy_selection import Rule, chosen, told
from esper.orchestrator.view import View, build_view
from esper.topics.models import ActiveStrategy, SeedReport, Strategy

Proposal = tuple[Strategy | None, DecisionPlan]


class Intent(NamedTuple):
    """What a run intends after a report: the board that it was seen on, the course, the plans.

    `course` and `strategy_state` are None where the run pursues none.
    """

    view: View
    plans: tuple[Proposal, ...]
    strategy_state: StrategyState | None = None
    course: ActiveStrategy | None = None


@dataclass(frozen=True)
class SeedOrchestrator:
    """Chooses one strategy at a time by rules over signs, and has it propose a plan; pure.

    A run whose selection has no orchestration pursues no course: there every trial is judged for
    itself.
    """

    rules: Sequence[Rule] = RULES

    def decide(self, state: FoldState, report: SeedReport) -> Intent:
        """Return what a run intends after a report that its state has learnt from."""
        view, strategy_state = build_view(state, report), state.strategy_state
        asked = tuple[Proposal, ...]((None, plan) for plan in answers(report))
        acts_by_hand = any(plan.operations for _, plan in asked)
        if acts_by_hand or report.paused or report.closing or state.pending:
            # What is under way decides which slots are free; wait for the trainer's answer.
            return Intent(view, asked, strategy_state)
        if strategy_state is None:
            return Intent(view, asked + _in_turn(view))
        readings = read(view)
        after = chosen(self.rules, strategy_state, view.orchestration, readings, report.seq)
        course = told(self.rules, strategy_state, after, readings)
        return Intent(view, asked + self._pursued(view, after, readings), after, course)

    def _pursued(
        self, view: View, strategy_state: StrategyState, readings: SignalReadings
    ) -> tuple[Proposal, ...]:
        """Return the plan of the strategy that is pursued, if it has one now."""
        on = tuple(each for each in readings if each.on(staying=True))
        rule = next((rule for rule in self.rules if rule.strategy is strategy_state.strategy), None)
        plan = None if rule is None else rule.propose(view, on)
        if plan is None:
            return ()
        return (
            (
                strategy_state.strategy,
                DecisionPlan(plan.operations, _with_why(plan.reason, strategy_state)),
            ),
        )


def _with_why(reason: str, strategy_state: StrategyState) -> str:
    """Return a plan's reason with that of its strategy, where it does not say so itself."""
    _, _, words = strategy_state.why.rpartition(": ")
    return (
        reason
        if words in reason
        else f"{reason}; since report {strategy_state.since_seq}: {strategy_state.why}"
    )


def _in_turn(view: View) -> tuple[Proposal, ...]:
    plans: tuple[Proposal, ...] = ()
    for strategy, propose in INDEPENDENT_TRIALS:
        plan = propose(view)
        if plan is None:
            continue
        plans += ((strategy, plan),)
        view = view.beside(plan.operations)
    return plans
