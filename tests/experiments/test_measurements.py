"""Regret and convergence run in their quick form and return a valid result."""

import pytest

from benchmarks.result import BenchmarkError
from experiments import convergence, mnist1d
from experiments.registry import MEASUREMENTS, SUITES, suite_named
from experiments.regret import measure
from tests.benchmarks.result_check import check


@pytest.mark.heavy
def test_regret_runs() -> None:
    check("regret", measure.run(quick=True))


@pytest.mark.heavy
def test_convergence_starts_its_own_stack_and_returns_a_row_per_run() -> None:
    measured = convergence.run(quick=True)

    check("convergence", measured)
    assert [(row["mode"], row["seed"]) for row in measured.runs] == [
        ("choosing", convergence.FIRST_SEED),
        ("growing", convergence.FIRST_SEED),
    ]
    assert all(sum(row["plantings"]) > 0 for row in measured.runs)


@pytest.mark.heavy
def test_mnist1d_starts_its_own_stack_and_pairs_every_run_with_its_host() -> None:
    measured = mnist1d.run(quick=True)

    check("mnist1d", measured)
    assert [(row["task"], row["seed"]) for row in measured.runs] == [
        ("mnist1d", 0),
        ("mnist1d-shuffled", 0),
    ]
    assert all(row["audited"] for row in measured.runs)


def test_suite_names_are_those_of_their_modules() -> None:
    assert all(suite_named(entry.name).name == entry.name for entry in SUITES)
    assert not {entry.name for entry in SUITES} & {entry.name for entry in MEASUREMENTS}


def test_unknown_suite_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(BenchmarkError, match="no suite 'speed'; choose from: known-answer"):
        suite_named("speed")
