"""The suites by name. A new one is a module with a `SUITE` and a row here."""

from importlib import import_module
from typing import Final

from benchmarks.growth.suite import Suite
from benchmarks.result import BenchmarkError

MODULES: Final = {
    "known-answer": "known_answer",
    "digits": "digits",
    "charlm": "charlm",
    "race": "race",
}


def suite_named(name: str) -> Suite:
    """Return a suite.

    Raises:
        BenchmarkError: there is none of that name.
    """
    if name not in MODULES:
        raise BenchmarkError(f"no suite {name!r}; there are {', '.join(MODULES)}")
    suite: Suite = import_module(f"benchmarks.growth.{MODULES[name]}").SUITE
    return suite
