"""DIVERSIFY: keep what has proven itself, and try a kind of kernel that its site does not have."""

from esper.orchestrator.board import Board, RankedArm
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
        operations += (afterwards.plant(best.arm),)
        reasons.append(describe(best))
    return Plan(operations, "; ".join(reasons)) if operations else None


def describe(ranked: RankedArm) -> str:
    """Say in words why an arm is next."""
    kernel = ranked.arm.kernel
    if ranked.score is None:
        return f"{kernel.site}: {kernel.blueprint_id} was never tried"
    return (
        f"{kernel.site}: {kernel.blueprint_id} scores {ranked.score:.3f} "
        f"(mean reward {ranked.arm.mean:.3f} of {ranked.arm.pulls})"
    )
