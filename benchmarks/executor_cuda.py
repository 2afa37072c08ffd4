"""The executor against a plain module on a GPU; see `benchmarks.executor`."""

from benchmarks.executor import measure
from benchmarks.result import Measurement


def run(quick: bool = False) -> Measurement:
    """Measure on the GPU."""
    return measure("cuda", quick)
