"""What holds for every policy: found by name, refused in words, a score for whatever it accepts."""

import math
import os
import re
import subprocess
import sys
from dataclasses import fields
from inspect import getdoc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import (
    POLICIES,
    ArmArrays,
    CounterRNG,
    LinearModel,
    Policy,
    PolicyContext,
    policy_for,
)
from esper.topics.models import PolicySpec
from tests.bandit.arms import RNG, columns

MUST_TRY_FIRST = {
    *("ucb1", "kl-ucb", "sliding-ucb", "discounted-ucb", "performance"),
}
FEATURES = 5


def named(name: str, **params: float) -> Policy:
    return policy_for(PolicySpec(name=name, params=params))


def with_features(arms: ArmArrays) -> ArmArrays:
    x = np.linspace(0.0, 1.0, FEATURES * len(arms)).reshape(len(arms), FEATURES)
    return ArmArrays(arms.weight, arms.mean, arms.variance, x)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_found_by_its_name_and_scores_every_arm(name: str) -> None:
    policy = named(name)
    arms = with_features(columns([(3, 0.2), (1, 0.7), (0, 0.0)]))
    assert policy.name == name
    assert len(policy.score(PolicyContext(4.0), arms, RNG)) == 3


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_scores_no_arms_as_nothing(name: str) -> None:
    arms = ArmArrays(*(np.zeros(0) for _ in range(3)), np.zeros((0, FEATURES)))
    assert named(name).score(PolicyContext(0.0), arms, RNG).tolist() == []


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_names_its_source(name: str) -> None:
    assert re.search(r'"[^"]+"\s+\(.*(19|20)\d\d\)', getdoc(POLICIES[name]) or "", re.DOTALL)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (PolicySpec(name="oracle"), "no policy 'oracle'; there are discounted-thompson, "),
        (PolicySpec(params={"exploration": -1.0}), "exploration is -1.0 and must be from 0 to"),
        (PolicySpec(params={"exploration": 1e308}), "exploration is 1e"),
        (PolicySpec(params={"explosion": 1.0}), "no parameter 'explosion'; it has exploration"),
        (PolicySpec(name="random", params={"luck": 1.0}), "no parameter 'luck'; it has none"),
        (PolicySpec(name="kl-ucb", params={"c": -0.1}), "policy kl-ucb: c is -0.1 and must be"),
        (PolicySpec(name="epsilon-greedy", params={"gap": 0.0}), "gap is 0.0 and must be from"),
        (PolicySpec(name="epsilon-greedy", params={"c": 1e7}), "c is 10000000.0 and must be"),
        (PolicySpec(name="performance", params={"temperature": 0.0}), "temperature is 0.0 and"),
        (PolicySpec(name="sliding-ucb", params={"window": 2.5}), "window is 2.5 and must be a"),
        (PolicySpec(name="sliding-ucb", params={"window": 0.0}), "whole number from 1 to 1000"),
        (PolicySpec(name="sliding-thompson", params={"window": 1e9}), "window is 1000000000.0"),
        (PolicySpec(name="discounted-ucb", params={"discount": 1.1}), "discount is 1.1 and must"),
        (PolicySpec(name="discounted-thompson", params={"discount": 0.0}), "discount is 0.0 and"),
        (PolicySpec(name="thompson-gaussian", params={"sigma": 0.0}), "sigma is 0.0 and must be"),
        (PolicySpec(name="linear-thompson", params={"arm_sigma": 99.0}), "arm_sigma is 99.0 and"),
    ],
)
def test_what_a_run_cannot_ask_for_is_refused_in_words(spec: PolicySpec, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        policy_for(spec)


@pytest.mark.parametrize("name", POLICIES)
def test_no_parameter_may_be_no_number(name: str) -> None:
    for parameter in fields(POLICIES[name]):  # type: ignore[arg-type]
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=f"{parameter.name} is"):
                POLICIES[name](**{parameter.name: value})


EXTREMES = {
    "exploration": (0.0, 1e-300, 1e6),
    "window": (1.0, 1000.0),
    "discount": (0.5, 1.0),
    "c": (0.0, 1e-300, 1e3),
    "gap": (1e-3, 1.0),
    "temperature": (1e-3, 1e3),
    "sigma": (1e-3, 10.0),
    "prior_sigma": (1e-3, 10.0),
    "arm_sigma": (1e-3, 10.0),
    "weight_sigma": (1e-3, 10.0),
}

weights = st.one_of(st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 1.0, 1e9, 1e15]), st.floats(0, 1e6))
means = st.one_of(st.sampled_from([0.0, 5e-324, 1e-17, 1 - 2.0**-53, 1.0]), st.floats(0, 1))


@st.composite
def policies(draw: st.DrawFn, name: str) -> Policy:
    """A policy with each parameter as it is, or as far out as it may be."""
    chosen = {
        parameter.name: draw(st.sampled_from(EXTREMES[parameter.name]))
        for parameter in fields(POLICIES[name])  # type: ignore[arg-type]
        if draw(st.booleans())
    }
    return POLICIES[name](**chosen)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.filterwarnings("error")
@given(
    st.data(),
    st.lists(st.tuples(weights, means), min_size=1, max_size=12),
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1e15]), st.floats(0, 1e6)),
    st.integers(0, 1000),
)
def test_no_score_is_ever_nan_or_minus_infinity(
    name: str, data: st.DataObject, tried: list[tuple[float, float]], total: float, seq: int
) -> None:
    arms = with_features(columns(tried))
    model = LinearModel()
    for reward in (0.0, 1.0, 0.3):
        model = model.after(arms.features[0].tolist(), reward)  # type: ignore[index]
    policy = data.draw(policies(name))
    scores = policy.score(PolicyContext(total, model), arms, CounterRNG(1, seq, "any"))
    assert np.all(scores > -np.inf), (policy, scores)
    if name not in MUST_TRY_FIRST | {"epsilon-greedy"}:
        assert np.all(np.isfinite(scores)), (policy, scores)


@pytest.mark.parametrize("name", sorted(MUST_TRY_FIRST))
def test_an_arm_never_tried_is_to_be_tried_first(name: str) -> None:
    scores = named(name).score(PolicyContext(9.0), columns([(4, 0.9), (0, 0.0), (5, 0.1)]), RNG)
    assert np.isposinf(scores).tolist() == [False, True, False]


PROGRAM = """
import numpy as np
from esper.bandit import POLICIES, ArmArrays, CounterRNG, PolicyContext, LinearModel
r = np.random.default_rng(3)
x = r.random((30, 6))
arms = ArmArrays(r.integers(0, 40, 30).astype(float), r.random(30), np.zeros(30), x)
model = LinearModel()
for place in range(20):
    model = model.after(x[place % 7].tolist(), float(r.random()), place // 7)
for name, policy in POLICIES.items():
    for seq in range(5):
        scores = policy().score(PolicyContext(500.0, model), arms, CounterRNG(1, seq, "test"))
        print(name, scores.tobytes().hex())
"""


def test_every_process_and_every_vector_unit_gives_the_same_scores() -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "NPY_DISABLE_CPU_FEATURES": disabled},
            check=True,
        ).stdout
        for seed, disabled in (("0", ""), ("4711", " ".join(found)))
    }
    assert len(printed) == 1
    assert all(printed)


@pytest.mark.parametrize("name", POLICIES)
def test_another_report_draws_other_numbers_and_the_same_one_the_same(name: str) -> None:
    arms = with_features(columns([(50, 0.5)] * 8))
    policy = named(name)
    first, again, other = (
        policy.score(PolicyContext(400.0), arms, CounterRNG(1, seq, "test")).tolist()
        for seq in (1, 1, 2)
    )
    assert first == again
    if "ucb" not in name and name != "epsilon-greedy":
        assert first != other
