"""Saying that nothing is done, and why: at the end of each answer of a lockstep run, and in other
runs when what keeps them from planting changes."""

from collections.abc import Sequence

from esper.bandit import Constraint
from esper.orchestrator.plan import DecisionPlan
from esper.orchestrator.state import Trial
from esper.orchestrator.view import View

PAUSED = "no action: paused by the trainer"


def last_word(view: View, decisions: int) -> DecisionPlan:
    """Return the plan without operations that ends the answer to the board's report.

    `decisions` came before it; where there are none, the reason says why.
    """
    return DecisionPlan((), _why_no_more(view, decisions))


def no_action(view: View) -> str | None:
    """Return why nothing can be planted although there is room on trial; None where there is none.

    The reason names constraints, not numbers of arms that change from report to report.
    """
    limits = view.state.run.selection.limits
    if not view.state.run.selects:
        return None
    if view.report.paused:
        return PAUSED
    if view.state.pending or not view.state.arms:
        return None
    if view.situation.on_trial >= limits.max_on_trial:
        return None
    codes = set(view.codes().tolist())
    if view.state.strategy_state is not None and Constraint.NONE in codes:
        return None
    names = sorted(Constraint(code).label for code in codes)
    return f"no action: all {len(view.state.arms)} arms are ruled out by {', '.join(names)}"


def _why_no_more(view: View, decisions: int) -> str:
    if decisions:
        noun = "decision is" if decisions == 1 else f"{decisions} decisions are"
        return f"the {noun} the whole answer to report {view.report.seq}"
    if view.report.paused:
        return PAUSED
    if waiting := len(view.state.pending):
        noun = "decision is" if waiting == 1 else "decisions are"
        return f"nothing is decided: {waiting} earlier {noun} not answered yet"
    if not view.state.arms:
        return "nothing is decided: no kernel is on offer"
    if view.state.strategy_state is not None and not view.codes().all():
        return f"nothing is decided: {_waits_for(view.state.trials)}"
    exclusions = [words or "" for _, words in view.exclusions()]
    return f"nothing is decided: no trial is over and {_why_none(exclusions)}"


def _waits_for(trials: Sequence[Trial]) -> str:
    noun = "trial goes" if len(trials) == 1 else "trials go"
    return f"{len(trials)} {noun} on" if trials else "the strategy has only just changed"


def _why_none(exclusions: list[str]) -> str:
    if len(set(exclusions)) == 1:
        return exclusions[0]
    return f"none of {len(exclusions)} arms may be planted"
