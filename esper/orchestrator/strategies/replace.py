"""REPLACE: a seed that its trial found too weak gives way to a better candidate."""

from esper.orchestrator.board import Board
from esper.orchestrator.plan import Plan
from esper.orchestrator.strategies.diversify import describe
from topics.models import Cull, Operation


def replace(board: Board) -> Plan | None:
    """Propose to cull every seed that failed its trial, and to plant the best arm in exchange.

    The new kernel takes another slot: the old one's embargo begins with the cull.
    """
    weak = [
        (trial, contribution)
        for trial, contribution in board.judged()
        if not board.worth_keeping(contribution)
    ]
    if not weak:
        return None
    operations: tuple[Operation, ...] = tuple(
        Cull(site=trial.site, slot=trial.slot, kernel_id=trial.kernel_id) for trial, _ in weak
    )
    reasons = [
        f"{trial.site}: {board.blueprint_of(trial)} {_verdict(contribution)}"
        for trial, contribution in weak
    ]
    afterwards = board.after(operations)
    best = afterwards.best()
    if best is not None:
        operations += (afterwards.plant(best),)
        reasons.append(describe(afterwards, best))
    return Plan(operations, "; ".join(reasons))


def _verdict(contribution: float | None) -> str:
    if contribution is None:
        return "makes the probe loss impossible to measure"
    if contribution < 0:
        return f"raises the probe loss by {-contribution:.4g}"
    return f"lowers the probe loss by {contribution:.4g} only"
