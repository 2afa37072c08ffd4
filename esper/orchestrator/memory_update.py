"""What a run leaves to later ones of its family."""

from esper.bandit.memory import Lesson
from esper.orchestrator.state import FoldState


def lessons_of(state: FoldState) -> list[Lesson]:
    """Return what the run found of each blueprint that it tried at each site; no belief of its own.

    A site of which the opening does not tell the signature teaches nothing: no other is like it.
    """
    signatures = state.run.signatures
    return [
        Lesson(signatures[arm.kernel.site], arm.kernel.blueprint_id, float(arm.pulls), arm.mean)
        for arm in state.arms
        if arm.pulls and arm.kernel.site in signatures
    ]
