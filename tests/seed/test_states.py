"""The states of a slot: the transition table is complete, and others are refused."""

import itertools

import pytest

from esper.seed import TRANSITIONS, IllegalTransition, Slot
from esper.topics.models import Plant, SeedState

S = SeedState

LEGAL = {
    (S.DORMANT, S.LOADING),
    (S.LOADING, S.BLENDING),
    (S.LOADING, S.DORMANT),
    (S.LOADING, S.CULLED),
    (S.LOADING, S.ROLLED_BACK),
    (S.BLENDING, S.ACTIVE),
    (S.BLENDING, S.CULLED),
    (S.BLENDING, S.ROLLED_BACK),
    (S.ACTIVE, S.BLENDING),
    (S.ACTIVE, S.FOSSILIZED),
    (S.ACTIVE, S.CULLED),
    (S.ACTIVE, S.ROLLED_BACK),
    (S.CULLED, S.DORMANT),
    (S.ROLLED_BACK, S.DORMANT),
}
PAIRS = list(itertools.product(S, S))

PLANT = Plant(
    site="conv", slot=1, kernel_id="0" * 64, blueprint_id="squeeze-excite", alpha=1.0, ramp_steps=0
)


def slot_in(state: SeedState) -> Slot:
    planted = state in (S.BLENDING, S.ACTIVE, S.FOSSILIZED)
    return Slot(
        "conv",
        1,
        state=state,
        planted=PLANT if planted else None,
        decision_id="d" * 64 if planted else None,
        since_step=3,
    )


def test_every_state_has_transitions() -> None:
    assert set(TRANSITIONS) == set(S)


@pytest.mark.parametrize(("state", "to"), sorted(LEGAL))
def test_a_legal_transition_is_made(state: SeedState, to: SeedState) -> None:
    slot = slot_in(state)
    slot.advance(to, step=9)
    assert (slot.state, slot.since_step) == (to, 9)


@pytest.mark.parametrize(("state", "to"), sorted(set(PAIRS) - LEGAL))
def test_an_illegal_transition_is_refused_naming_seed_and_both_states(
    state: SeedState, to: SeedState
) -> None:
    slot, before = slot_in(state), slot_in(state)
    with pytest.raises(IllegalTransition, match=f"conv/1 is {state} and cannot become {to}"):
        slot.advance(to, step=9)
    assert slot == before


@pytest.mark.parametrize("to", [S.CULLED, S.ROLLED_BACK])
def test_an_emptied_slot_forgets_its_plant(to: SeedState) -> None:
    slot = slot_in(S.ACTIVE)
    slot.advance(to, step=9)
    assert slot.planted is None
    assert slot.decision_id is None


def test_a_fossilized_slot_remembers_its_plant() -> None:
    slot = slot_in(S.ACTIVE)
    slot.advance(S.FOSSILIZED, step=9)
    assert slot.planted is PLANT


def test_a_fossilized_slot_has_no_transitions() -> None:
    with pytest.raises(IllegalTransition, match="it may become nothing"):
        slot_in(S.FOSSILIZED).check(S.CULLED)
