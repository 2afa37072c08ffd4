"""The life of a seed: which state may follow which."""

from collections.abc import Mapping

from esper.topics.models import SeedState

S = SeedState

TRANSITIONS: Mapping[SeedState, frozenset[SeedState]] = {
    S.DORMANT: frozenset({S.LOADING}),
    S.LOADING: frozenset({S.BLENDING, S.DORMANT, S.CULLED, S.ROLLED_BACK}),
    S.BLENDING: frozenset({S.ACTIVE, S.CULLED, S.ROLLED_BACK}),
    # Back to blending where its alpha is to change: what is measured on the way is of neither.
    S.ACTIVE: frozenset({S.BLENDING, S.FOSSILIZED, S.CULLED, S.ROLLED_BACK}),
    S.FOSSILIZED: frozenset(),
    S.CULLED: frozenset({S.DORMANT}),
    S.ROLLED_BACK: frozenset({S.DORMANT}),
}


class IllegalTransition(ValueError):
    """A seed was asked to go where its state does not lead; the message names both states."""

    def __init__(self, where: str, state: SeedState, to: SeedState) -> None:
        allowed = ", ".join(sorted(TRANSITIONS[state])) or "nothing"
        super().__init__(f"{where} is {state} and cannot become {to}; it may become {allowed}")
