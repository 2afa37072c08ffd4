"""The tables of experiments: measurements and suites. A new one is a module and a row here."""

from importlib import import_module
from typing import Final, NamedTuple

from benchmarks.result import BenchmarkError
from experiments.growth.suite import Suite


class Experiment(NamedTuple):
    """An experiment; `module` is imported when it runs."""

    name: str
    module: str
    summary: str


MEASUREMENTS: Final = (
    Experiment("regret", "regret.measure", "regret of every policy where the best arm is known"),
    Experiment("convergence", "convergence", "choices of each policy in real training"),
    Experiment("mnist1d", "mnist1d", "MNIST-1D: auditions against the host, and where none helps"),
)
"""Modules with `run(quick) -> Measurement`; the result is one JSON file."""

SUITES: Final = (
    Experiment("known-answer", "growth.known_answer", "five teachers whose right kernel is known"),
    Experiment("digits", "growth.digits", "digits: growth against baselines of equal parameters"),
    Experiment("charlm", "growth.charlm", "characters: growth against equal parameters or time"),
    Experiment("haystack", "haystack.suite", "one right kernel among 300 arms at six sites"),
    Experiment("race", "growth.race", "time to a target loss on a GPU"),
)
"""Modules with a `SUITE`; each training run is one row of a CSV file."""


def suite_named(name: str) -> Suite:
    """Return a suite.

    Raises:
        BenchmarkError: the name is unknown.
    """
    found = {entry.name: entry for entry in SUITES}.get(name)
    if found is None:
        known = ", ".join(entry.name for entry in SUITES)
        raise BenchmarkError(f"no suite {name!r}; choose from: {known}")
    suite: Suite = import_module(f"experiments.{found.module}").SUITE
    return suite
