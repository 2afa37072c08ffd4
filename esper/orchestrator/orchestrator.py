"""The orchestrator: given a run as it is, what it intends, and the plans that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from esper.orchestrator.board import Board, set_up
from esper.orchestrator.by_hand import answers
from esper.orchestrator.course import Rule, chosen, told
from esper.orchestrator.in_turn import IN_TURN
from esper.orchestrator.plan import Plan
from esper.orchestrator.signals import Readings, read
from esper.orchestrator.state import Agenda, FoldState
from esper.orchestrator.strategies import RULES
from esper.topics.models import Course, SeedReport, Strategy

Proposal = tuple[Strategy | None, Plan]


class Intent(NamedTuple):
    """What a run intends after a report: the board that it was seen on, the course, the plans.

    `course` and `agenda` are None where the run pursues none.
    """

    board: Board
    plans: tuple[Proposal, ...]
    agenda: Agenda | None = None
    course: Course | None = None


@dataclass(frozen=True)
class SeedOrchestrator:
    """Chooses one strategy at a time by rules over signs, and has it propose a plan; pure.

    A run whose selection has no orchestration pursues no course: there every trial is judged for
    itself.
    """

    rules: Sequence[Rule] = RULES

    def decide(self, state: FoldState, report: SeedReport) -> Intent:
        """Return what a run intends after a report that its state has learnt from."""
        board, agenda = set_up(state, report), state.agenda
        asked = tuple[Proposal, ...]((None, plan) for plan in answers(report))
        acts_by_hand = any(plan.operations for _, plan in asked)
        if acts_by_hand or report.paused or report.closing or state.pending:
            # What is under way decides which slots are free; wait for the trainer's answer.
            return Intent(board, asked, agenda)
        if agenda is None:
            return Intent(board, asked + _in_turn(board))
        readings = read(board)
        after = chosen(self.rules, agenda, board.orchestration, readings, report.seq)
        course = told(self.rules, agenda, after, readings)
        return Intent(board, asked + self._pursued(board, after, readings), after, course)

    def _pursued(self, board: Board, agenda: Agenda, readings: Readings) -> tuple[Proposal, ...]:
        """Return the plan of the strategy that is pursued, if it has one now."""
        on = tuple(each for each in readings if each.on(staying=True))
        rule = next((rule for rule in self.rules if rule.strategy is agenda.strategy), None)
        plan = None if rule is None else rule.propose(board, on)
        if plan is None:
            return ()
        return ((agenda.strategy, Plan(plan.operations, _with_why(plan.reason, agenda))),)


def _with_why(reason: str, agenda: Agenda) -> str:
    """Return a plan's reason with that of its strategy, where it does not say so itself."""
    _, _, words = agenda.why.rpartition(": ")
    return reason if words in reason else f"{reason}; since report {agenda.since_seq}: {agenda.why}"


def _in_turn(board: Board) -> tuple[Proposal, ...]:
    plans: tuple[Proposal, ...] = ()
    for strategy, propose in IN_TURN:
        plan = propose(board)
        if plan is None:
            continue
        plans += ((strategy, plan),)
        board = board.beside(plan.operations)
    return plans
