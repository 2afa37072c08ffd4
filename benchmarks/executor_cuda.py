"""The executor against a plain module on a GPU; see `benchmarks.executor`."""

from benchmarks.executor import measure
from benchmarks.result import Measured


def run(quick: bool = False) -> Measured:
    """Measure on the GPU."""
    return measure("cuda", quick)
