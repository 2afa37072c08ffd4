"""DIVERSIFY: keep what has proven itself, and try a kind of kernel that its site does not have."""

from math import inf

from esper.bandit import Choice
from esper.orchestrator.board import Board
from esper.orchestrator.plan import Plan
from topics.models import Fossilize, Operation


def diversify(board: Board) -> Plan | None:
    """Propose to fossilise every seed that passed its trial and to plant the best arm allowed."""
    operations: tuple[Operation, ...] = ()
    reasons = []
    for trial, contribution in board.judged():
        if contribution is None or not board.worth_keeping(contribution):
            continue
        operations += (Fossilize(site=trial.site, slot=trial.slot, kernel_id=trial.kernel_id),)
        name = board.blueprint_of(trial)
        reasons.append(f"{trial.site}: {name} lowers the probe loss by {contribution:.4g}, kept")
    afterwards = board.after(operations)
    best = afterwards.best()
    if best is not None:
        operations += (afterwards.plant(best),)
        reasons.append(describe(afterwards, best))
    return Plan(operations, "; ".join(reasons)) if operations else None


def describe(board: Board, choice: Choice) -> str:
    """Say in words why an arm is next."""
    arm = board.arm(choice)
    name = f"{arm.kernel.site}: {arm.kernel.blueprint_id}"
    if choice.score == inf:
        return f"{name} was never tried"
    if not arm.pulls:
        return f"{name} scores {choice.score:.3f} and was never tried"
    return f"{name} scores {choice.score:.3f} (mean reward {arm.mean:.3f} of {arm.pulls})"
