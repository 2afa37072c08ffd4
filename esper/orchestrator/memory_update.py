"""What a run leaves to later ones of its family."""

from esper.bandit.memory import MemoryUpdate
from esper.orchestrator.state import FoldState


def memory_updates(state: FoldState) -> list[MemoryUpdate]:
    """Return what the run found of each blueprint that it tried at each site; no belief of its own.

    A site of which the opening does not tell the signature teaches nothing: no other is like it.
    """
    signatures = state.run.signatures
    return [
        MemoryUpdate(
            signatures[arm.kernel.site], arm.kernel.blueprint_id, float(arm.pulls), arm.mean
        )
        for arm in state.arms
        if arm.pulls and arm.kernel.site in signatures
    ]
