"""The optimiser's passes for GPUs; see `benchmarks.passes`."""

from benchmarks.passes import measure
from benchmarks.result import Measurement


def run(quick: bool = False) -> Measurement:
    """Measure the passes for GPUs."""
    return measure("cuda", quick)
