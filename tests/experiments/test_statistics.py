"""Statistics of paired runs, against textbook values and laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.evidence.statistics import holm, interval, paired, sign_flip_p

FEW_PAIRS = st.lists(st.floats(-100, 100), min_size=1, max_size=8)


def test_difference_is_ours_minus_theirs_by_pair() -> None:
    difference = paired([3.0, 5.0, 9.0], [1.0, 2.0, 5.0])
    assert (difference.mean, difference.pairs) == (3.0, 3)
    assert 2.0 <= difference.low <= 3.0 <= difference.high <= 4.0


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_unequal_or_empty_sides_are_an_error(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired(ours, theirs)


def test_interval_covers_the_mean_of_normal_values_19_times_in_20() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = interval(random.normal(3.0, 2.0, 40))
        covered += low <= 3.0 <= high
    assert 180 <= covered <= 198


def test_interval_is_about_as_wide_as_the_normal_interval() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 400)
    low, high = interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)


@given(FEW_PAIRS)
def test_p_value_of_few_pairs_counts_every_sign_pattern(differences: list[float]) -> None:
    observed = abs(sum(differences))
    patterns = itertools.product((-1, 1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) for p in patterns]
    expected = sum(total >= observed - 1e-9 * max(1.0, observed) for total in sums) / len(sums)
    assert sign_flip_p(differences) == pytest.approx(expected)


def test_equal_signs_give_the_smallest_possible_p_value() -> None:
    assert sign_flip_p([1.0] * 5) == 2 / 2**5
    assert sign_flip_p([0.0] * 5) == 1.0
    assert sign_flip_p([1.0] * 20) == 1 / 10_001


def test_p_values_are_uniform_under_the_null_hypothesis() -> None:
    random = np.random.default_rng(3)
    p_values = [sign_flip_p(random.normal(0.0, 1.0, 10)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09


def test_holm_matches_the_example_of_the_paper() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_nor_changes_the_order(p: dict[str, float]) -> None:
    corrected = holm(p)
    assert all(corrected[name] >= p[name] for name in p)
    order = sorted(p, key=p.__getitem__)
    assert [corrected[name] for name in order] == sorted(corrected.values())


def test_equal_values_give_equal_figures() -> None:
    values = list(np.random.default_rng(4).normal(size=20))
    assert paired(values, [0.0] * 20) == paired(values, [0.0] * 20)
