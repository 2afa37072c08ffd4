"""Random numbers that replay: each is a function of what it is for."""

import os
import random
import subprocess
import sys
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import uniform

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
