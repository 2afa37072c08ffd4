"""Random numbers that replay: each is a function of what it is for."""

import hashlib
import math
import os
import random
import subprocess
import sys
from itertools import islice
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from esper.bandit import CounterRNG, uniform
from tests.bandit.philox import Words, block, stream

numbers = st.integers(0, (1 << 63) - 1)


@given(numbers, numbers, st.text(max_size=10), numbers)
def test_a_number_is_from_zero_to_below_one(seed: int, seq: int, purpose: str, index: int) -> None:
    assert 0.0 <= uniform(seed, seq, purpose, index) < 1.0


def test_the_numbers_never_change() -> None:
    """Old runs are audited with them."""
    assert uniform(0, 0, "tie-break", 0) == 0.7805503647856832
    assert uniform(7, 123, "tie-break", 4) == 0.030197397371970025


def test_every_process_draws_the_same_numbers() -> None:
    program = "from esper.bandit import uniform; print([uniform(1, 2, 'p', i) for i in range(20)])"
    drawn = {
        subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        ).stdout.strip()
        for seed in ("0", "4711")
    }
    assert drawn == {str([uniform(1, 2, "p", index) for index in range(20)])}


def test_the_order_in_which_numbers_are_drawn_does_not_matter() -> None:
    arguments = [
        (seed, seq, "p", index) for seed in (1, 2) for seq in (1, 2) for index in range(50)
    ]
    drawn = {argument: uniform(*argument) for argument in arguments}
    random.Random(3).shuffle(arguments)
    assert {argument: uniform(*argument) for argument in arguments} == drawn


def test_the_numbers_are_roughly_uniform() -> None:
    """10,000 draws in ten bins; chi-squared with 9 degrees of freedom is below 27.9 in 99.9 %."""
    drawn = [uniform(11, seq, "tie-break", index) for seq in range(100) for index in range(100)]
    counts = [0] * 10
    for number in drawn:
        counts[int(number * 10)] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 27.9
    assert abs(fmean(drawn) - 0.5) < 0.01
    assert len(set(drawn)) == len(drawn)


def test_each_argument_makes_another_number() -> None:
    assert (
        len(
            {
                uniform(1, 2, "p", 3),
                uniform(9, 2, "p", 3),
                uniform(1, 9, "p", 3),
                uniform(1, 2, "q", 3),
                uniform(1, 2, "p", 9),
            }
        )
        == 5
    )


ALL_ONES = (1 << 64) - 1
PI = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
        ),
        (
            (ALL_ONES, ALL_ONES, ALL_ONES, ALL_ONES),
            (ALL_ONES, ALL_ONES),
            "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
        ),
        (
            PI,
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_philox_has_the_known_answers_of_random123(
    counter: Words, key: tuple[int, int], words: str
) -> None:
    assert [f"{word:016x}" for word in block(counter, key)] == words.split()


@given(numbers, numbers, st.text(max_size=10), st.text(max_size=10), st.integers(0, 40))
def test_uniforms_are_philox_under_a_key_that_says_what_for(
    seed: int, seq: int, purpose: str, part: str, count: int
) -> None:
    named = f"{seed}/{seq}/{purpose}/{part}".encode()
    key = int.from_bytes(hashlib.blake2b(named, digest_size=16).digest(), "big")
    expected = [(word >> 11) * 2.0**-53 for word in islice(stream(key), count)]
    assert CounterRNG(seed, seq, purpose).uniforms(count, part).tolist() == expected


def test_the_numbers_of_every_distribution_never_change() -> None:
    """Old runs are audited with them."""
    draws = CounterRNG(3, 5, "known")
    shapes = np.array([1.0, 2.5, 40.0, 1e6])
    found = [
        *draws.uniforms(2).tolist(),
        *draws.normals(3).tolist(),
        *draws.gammas(shapes).tolist(),
        *draws.betas(shapes, shapes[::-1]).tolist(),
    ]
    assert [value.hex() for value in found] == [
        "0x1.671017c8f0420p-5",
        "0x1.7afba3e029a57p-1",
        "-0x1.b5367c80daa90p+0",
        "0x1.49b5da1f7a32bp-1",
        "-0x1.81cab8b645c23p+0",
        "0x1.1ed33eb4221b7p+2",
        "0x1.ca0c52852ed28p-1",
        "0x1.601d27ffafe11p+5",
        "0x1.e9562f11d042dp+19",
        "0x1.2d189c8d73066p-18",
        "0x1.d10807aaa7000p-5",
        "0x1.f2950d5e8de44p-1",
        "0x1.ffffc33c66fd4p-1",
    ]


def p_value(drawn: np.ndarray, distribution: object) -> float:
    """That of the test of Kolmogorov and Smirnov."""
    return float(stats.kstest(drawn, distribution.cdf).pvalue)


def test_normals_are_normal() -> None:
    assert p_value(CounterRNG(1, 0, "normals").normals(20_000), stats.norm) > 0.01


@pytest.mark.parametrize("shape", [1.0, 1.001, 1.5, 7.25, 300.0, 1e6])
def test_gammas_are_of_their_shape(shape: float) -> None:
    drawn = CounterRNG(2, 0, "gammas").gammas(np.full(20_000, shape))
    assert p_value(drawn, stats.gamma(shape)) > 0.01


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 9.0), (2.5, 1.5), (40.0, 60.0), (900, 1)])
def test_betas_are_of_their_shapes(a: float, b: float) -> None:
    drawn = CounterRNG(3, 0, "betas").betas(np.full(20_000, a), np.full(20_000, b))
    assert p_value(drawn, stats.beta(a, b)) > 0.01


def test_what_an_arm_draws_does_not_depend_on_how_many_there_are() -> None:
    draws = CounterRNG(4, 0, "arms")
    a, b = np.linspace(1, 3, 500), np.linspace(4, 1, 500)
    assert draws.normals(500)[:8].tolist() == draws.normals(8).tolist()
    assert draws.betas(a, b)[:8].tolist() == draws.betas(a[:8], b[:8]).tolist()


def test_what_an_arm_draws_does_not_depend_on_the_others() -> None:
    draws = CounterRNG(5, 0, "arms")
    ours = np.array([1.0, 2.0, 3.0])
    alone = draws.gammas(ours)[1]
    assert all(draws.gammas(np.array([x, 2.0, y]))[1] == alone for x in (1, 9) for y in (1, 9))


@pytest.mark.parametrize("shape", [0.999, 0.0, -1.0, math.inf, math.nan])
def test_a_shape_that_the_method_is_not_for_is_refused(shape: float) -> None:
    with pytest.raises(ValueError, match="give finite ones of at least 1"):
        CounterRNG(0, 0, "gammas").gammas(np.array([2.0, shape]))
