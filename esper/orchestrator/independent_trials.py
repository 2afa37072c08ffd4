"""How a run is decided that pursues no course: each trial by its own verdict, then the best arm.

REPLACE moves first, and DIVERSIFY sees the board that it leaves behind.
"""

from collections.abc import Callable
from math import inf

from esper.bandit import ArmChoice
from esper.orchestrator.plan import DecisionPlan, culling, keeping
from esper.orchestrator.view import View
from esper.topics.models import Operation, Strategy


def replace(view: View) -> DecisionPlan | None:
    """Propose to cull every seed that failed its trial, and to plant the best arm in exchange.

    The new kernel takes another slot: the old one's embargo begins with the cull.
    """
    weak = [
        (trial, contribution)
        for trial, contribution in view.judged()
        if not view.worth_keeping(contribution)
    ]
    if not weak:
        return None
    operations: tuple[Operation, ...] = tuple(culling(trial) for trial, _ in weak)
    reasons = [
        f"{trial.site}: {view.blueprint_of(trial)} {_verdict(contribution)}"
        for trial, contribution in weak
    ]
    afterwards = view.after(operations)
    best = afterwards.best()
    if best is not None:
        operations += (afterwards.plant(best),)
        reasons.append(describe(afterwards, best))
    return DecisionPlan(operations, "; ".join(reasons))


def _verdict(contribution: float | None) -> str:
    if contribution is None:
        return "makes the probe loss impossible to measure"
    if contribution < 0:
        return f"raises the probe loss by {-contribution:.4g}"
    return f"lowers the probe loss by {contribution:.4g} only"


def diversify(view: View) -> DecisionPlan | None:
    """Propose to fossilise every seed that passed its trial and to plant the best arm allowed."""
    operations: tuple[Operation, ...] = ()
    reasons = []
    for trial, contribution in view.judged():
        if contribution is None or not view.worth_keeping(contribution):
            continue
        operations += (keeping(trial),)
        name = view.blueprint_of(trial)
        reasons.append(f"{trial.site}: {name} lowers the probe loss by {contribution:.4g}, kept")
    afterwards = view.after(operations)
    best = afterwards.best()
    if best is not None:
        operations += (afterwards.plant(best),)
        reasons.append(describe(afterwards, best))
    return DecisionPlan(operations, "; ".join(reasons)) if operations else None


def describe(view: View, choice: ArmChoice) -> str:
    """Say in words why an arm is next."""
    arm = view.arm(choice)
    name = f"{arm.kernel.site}: {arm.kernel.blueprint_id}"
    if choice.score == inf:
        return f"{name} was never tried"
    if not arm.pulls:
        return f"{name} scores {choice.score:.3f} and was never tried"
    return f"{name} scores {choice.score:.3f} (mean reward {arm.mean:.3f} of {arm.pulls})"


INDEPENDENT_TRIALS: tuple[tuple[Strategy, Callable[[View], DecisionPlan | None]], ...] = (
    (Strategy.REPLACE, replace),
    (Strategy.DIVERSIFY, diversify),
)
"""The order in which they move."""
