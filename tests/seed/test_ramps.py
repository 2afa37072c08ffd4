"""Ramps: every shape begins above nothing, never falls, and ends at exactly its target."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.seed.ramps import RAMPS, Ramp
from esper.topics.models import Plant

STEPS = st.integers(1, 100_000)
every_shape = pytest.mark.parametrize("ramp", RAMPS.values(), ids=RAMPS)


def test_every_ramp_name_of_a_plant_has_a_ramp() -> None:
    assert set(RAMPS) == set(get_args(Plant.model_fields["ramp"].annotation))


@every_shape
@given(steps=STEPS, data=st.data())
def test_a_ramp_is_above_zero_and_at_most_one(ramp: Ramp, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, steps))
    assert 0 < ramp(step / steps) <= 1


@every_shape
@given(steps=STEPS, data=st.data())
def test_a_ramp_grows_from_step_to_step(ramp: Ramp, steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, steps))
    before = ramp((step - 1) / steps) if step > 1 else 0.0
    assert before < ramp(step / steps)


@every_shape
@given(steps=st.integers(1, 2**62))
def test_a_ramp_of_any_length_begins_above_zero_and_ends_at_exactly_one(
    ramp: Ramp, steps: int
) -> None:
    assert ramp(1 / steps) > 0
    assert ramp(steps / steps) == 1.0


@given(passed=st.floats(0, 1, exclude_min=True))
def test_the_cosine_is_half_a_cosine(passed: float) -> None:
    expected = (1 - math.cos(math.pi * passed)) / 2
    assert RAMPS["cosine"](passed) == pytest.approx(expected, abs=1e-15)
