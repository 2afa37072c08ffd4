"""Functions that must have the same bits everywhere: as good as those of `math`, and never else."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit.arm_arrays import FloatArray
from esper.bandit.portable import exp, log, normal_quantile

Function = Callable[[FloatArray], FloatArray]

positives = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
probabilities = st.floats(2.0**-54, 1 - 2.0**-53)


def units_apart(found: float, expected: float) -> float:
    """How many units in the last place two numbers lie apart."""
    return abs(found - expected) / max(math.ulp(expected), 5e-324)


@given(positives)
def test_log_is_right_within_a_unit_and_a_half_in_the_last_place(x: float) -> None:
    assert units_apart(log(np.array([x]))[0], math.log(x)) <= 1.5


@given(st.floats(-708, 709))
def test_exp_is_right_within_a_unit_and_a_half_in_the_last_place(x: float) -> None:
    assert units_apart(exp(np.array([x]))[0], math.exp(x)) <= 1.5


@given(probabilities)
def test_normal_quantile_is_right_to_fifteen_digits(p: float) -> None:
    expected = NormalDist().inv_cdf(p)
    assert normal_quantile(np.array([p]))[0] == pytest.approx(expected, rel=1e-15, abs=1e-300)


def test_exp_ends_in_zero_below_and_stays_finite_above() -> None:
    assert exp(np.array([-708.1, -1e308, -math.inf])).tolist() == [0.0, 0.0, 0.0]
    top = math.exp(709)
    assert exp(np.array([710.0, math.inf])).tolist() == pytest.approx([top, top])


def test_exact_points() -> None:
    assert log(np.array([1.0, 2.0, 0.5])).tolist() == [0.0, math.log(2), -math.log(2)]
    assert exp(np.array([0.0])).tolist() == [1.0]
    assert normal_quantile(np.array([0.5])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("function", "x", "bits"),
    [
        (
            log,
            [0.1, 3.0, 1e300, 5e-324],
            [
                "-0x1.26bb1bbb55515p+1",
                "0x1.193ea7aad030ap+0",
                "0x1.5963447f87fb5p+9",
                "-0x1.74385446d71c3p+9",
            ],
        ),
        (
            exp,
            [0.1, -3.0, 700.0, -707.9],
            [
                "0x1.1aec7b35a00d4p+0",
                "0x1.97db0ccceb0afp-5",
                "0x1.d945df4f8ec8ep+1009",
                "0x1.a4904f4342894p-1022",
            ],
        ),
        (
            normal_quantile,
            [0.1, 0.51, 1e-3, 2.0**-54, 1 - 2.0**-53],
            [
                "-0x1.4813c36e26d33p+0",
                "0x1.9aba9f4786911p-6",
                "-0x1.8b8cbb7204470p+1",
                "-0x1.095b059d67c4cp+3",
                "0x1.06b48528cea51p+3",
            ],
        ),
    ],
)
def test_the_bits_never_change(function: Function, x: list[float], bits: list[str]) -> None:
    """Old runs are audited with them."""
    assert [value.hex() for value in function(np.array(x)).tolist()] == bits


@pytest.mark.parametrize("function", [log, exp, normal_quantile])
@pytest.mark.parametrize(("length", "offset"), [(1, 0), (2, 1), (7, 3), (64, 5), (1001, 1)])
def test_what_an_entry_becomes_depends_on_nothing_around_it(
    function: Function, length: int, offset: int
) -> None:
    values = np.random.default_rng(length).uniform(1e-9, 1.0, length + offset)[offset:]
    alone = [function(np.array([value]))[0] for value in values]
    strided = np.repeat(values, 2)[::2]
    assert function(values).tolist() == alone
    assert function(strided).tolist() == alone


PROGRAM = """
import numpy as np
from esper.bandit.portable import exp, log, normal_quantile
x = np.random.default_rng(5).uniform(1e-9, 1.0, 2000)
print(b"".join(f(x).tobytes() for f in (log, exp, normal_quantile)).hex())
"""


def test_the_bits_do_not_depend_on_the_vector_unit() -> None:
    """Once with all that this processor has, once with as little as numpy can do with."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled},
            check=True,
        ).stdout
        for disabled in ("", features_that_numpy_can_do_without())
    }
    assert len(printed) == 1


def features_that_numpy_can_do_without() -> str:
    """The dispatched features that this processor has, as numpy's environment variable."""
    config = np.show_config(mode="dicts")
    return " ".join(config["SIMD Extensions"]["found"])
