"""Time the steps of building a kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

MILLISECONDS: Final = 1e3


@contextmanager
def timed(timings_ms: dict[str, float], step: str) -> Iterator[None]:
    """Add the milliseconds of the block to a step, also if the block raises."""
    start = perf_counter()
    try:
        yield
    finally:
        taken = (perf_counter() - start) * MILLISECONDS
        timings_ms[step] = timings_ms.get(step, 0.0) + taken
