"""Auditions against a bare loop on a GPU; see `benchmarks.auditions`."""

from benchmarks.auditions import measure
from benchmarks.result import Measurement


def run(quick: bool = False) -> Measurement:
    """Measure on the GPU."""
    return measure("cuda", quick)
