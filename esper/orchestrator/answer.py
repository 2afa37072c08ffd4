"""Saying that nothing is done, and why: at the end of each answer of a lockstep run, and in other
runs when what keeps them from planting changes."""

from collections.abc import Sequence

from esper.bandit import Constraint
from esper.orchestrator.board import Board
from esper.orchestrator.plan import Plan
from esper.orchestrator.state import Trial

PAUSED = "no action: paused by the trainer"


def last_word(board: Board, decisions: int) -> Plan:
    """Return the plan without operations that ends the answer to the board's report.

    `decisions` came before it; where there are none, the reason says why.
    """
    return Plan((), _why_no_more(board, decisions))


def no_action(board: Board) -> str | None:
    """Return why nothing can be planted although there is room on trial; None where there is none.

    The reason names constraints, not numbers of arms that change from report to report.
    """
    limits = board.state.run.selection.limits
    if not board.state.run.selects:
        return None
    if board.report.paused:
        return PAUSED
    if board.state.pending or not board.state.arms:
        return None
    if board.situation.on_trial >= limits.max_on_trial:
        return None
    codes = set(board.codes().tolist())
    if board.state.agenda is not None and Constraint.NONE in codes:
        return None
    names = sorted(Constraint(code).label for code in codes)
    return f"no action: all {len(board.state.arms)} arms are ruled out by {', '.join(names)}"


def _why_no_more(board: Board, decisions: int) -> str:
    if decisions:
        noun = "decision is" if decisions == 1 else f"{decisions} decisions are"
        return f"the {noun} the whole answer to report {board.report.seq}"
    if board.report.paused:
        return PAUSED
    if waiting := len(board.state.pending):
        noun = "decision is" if waiting == 1 else "decisions are"
        return f"nothing is decided: {waiting} earlier {noun} not answered yet"
    if not board.state.arms:
        return "nothing is decided: no kernel is on offer"
    if board.state.agenda is not None and not board.codes().all():
        return f"nothing is decided: {_waits_for(board.state.trials)}"
    exclusions = [words or "" for _, words in board.exclusions()]
    return f"nothing is decided: no trial is over and {_why_none(exclusions)}"


def _waits_for(trials: Sequence[Trial]) -> str:
    noun = "trial goes" if len(trials) == 1 else "trials go"
    return f"{len(trials)} {noun} on" if trials else "the strategy has only just changed"


def _why_none(exclusions: list[str]) -> str:
    if len(set(exclusions)) == 1:
        return exclusions[0]
    return f"none of {len(exclusions)} arms may be planted"
