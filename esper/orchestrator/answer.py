"""The end of an answer: in a lockstep run every report is answered, also where nothing is done."""

from collections.abc import Sequence

from esper.orchestrator.board import Board
from esper.orchestrator.plan import Plan


def last_word(board: Board, decisions: int) -> Plan:
    """Return the plan without operations that ends the answer to the board's report.

    `decisions` came before it; where there are none, the reason says why.
    """
    return Plan((), _why_no_more(board, decisions))


def _why_no_more(board: Board, decisions: int) -> str:
    if decisions:
        noun = "decision is" if decisions == 1 else f"{decisions} decisions are"
        return f"the {noun} the whole answer to report {board.report.seq}"
    if waiting := len(board.state.pending):
        noun = "decision is" if waiting == 1 else "decisions are"
        return f"nothing is decided: {waiting} earlier {noun} not answered yet"
    if not board.ranking:
        return "nothing is decided: no kernel is on offer"
    return f"nothing is decided: no trial is over and {_why_none(_exclusions(board))}"


def _exclusions(board: Board) -> Sequence[str]:
    return [board.exclusion(ranked.arm) or "" for ranked in board.ranking]


def _why_none(exclusions: Sequence[str]) -> str:
    if len(set(exclusions)) == 1:
        return exclusions[0]
    return f"none of {len(exclusions)} arms may be planted"
