"""The optimiser's passes for GPUs; see `benchmarks.passes`."""

from benchmarks.passes import measure
from benchmarks.result import Measured


def run(quick: bool = False) -> Measured:
    """Measure the passes for GPUs."""
    return measure("cuda", quick)
