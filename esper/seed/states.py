"""The states of a slot and the transitions between them."""

from collections.abc import Mapping

from esper.errors import EsperError
from esper.topics.models import SeedState

S = SeedState

TRANSITIONS: Mapping[SeedState, frozenset[SeedState]] = {
    S.DORMANT: frozenset({S.LOADING}),
    S.LOADING: frozenset({S.BLENDING, S.DORMANT, S.CULLED, S.ROLLED_BACK}),
    S.BLENDING: frozenset({S.ACTIVE, S.CULLED, S.ROLLED_BACK}),
    # Back to blending for a new alpha: measurements during a ramp belong to neither alpha.
    S.ACTIVE: frozenset({S.BLENDING, S.FOSSILIZED, S.CULLED, S.ROLLED_BACK}),
    S.FOSSILIZED: frozenset(),
    S.CULLED: frozenset({S.DORMANT}),
    S.ROLLED_BACK: frozenset({S.DORMANT}),
}


class IllegalTransition(EsperError, ValueError):
    """A slot cannot change to the requested state; the message names both states."""

    def __init__(self, seed_name: str, state: SeedState, to: SeedState) -> None:
        allowed = ", ".join(sorted(TRANSITIONS[state])) or "nothing"
        super().__init__(f"{seed_name} is {state} and cannot become {to}; it may become {allowed}")
