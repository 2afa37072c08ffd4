"""Widen a host to a given number of parameters."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import ceil
from typing import Final, NamedTuple

MOST_SKEWED: Final = 1.3
"""Largest ratio between the scales of two sizes, so that the host keeps its proportions."""


class Size(NamedTuple):
    """One size of a host: its smallest value, and the step by which it can grow."""

    least: int
    step: int = 1


def widened(
    sizes: Sequence[Size], params_of: Callable[..., int], params: int, at_most: float = 8.0
) -> tuple[int, ...]:
    """Return sizes, up to `at_most` times as large, whose host is closest to `params` parameters.

    Of equally close sizes, return those that keep the host's proportions best.
    """
    return min(
        _widths(sizes, at_most),
        key=lambda widths: (abs(params_of(*widths) - params), _skew(sizes, widths)),
    )


def _widths(sizes: Sequence[Size], at_most: float) -> Iterator[tuple[int, ...]]:
    first, *rest = sizes
    for width in range(first.least, int(first.least * at_most) + 1, first.step):
        scale = width / first.least
        ranges = (
            range(
                max(size.least, _up(scale / MOST_SKEWED * size.least, size)),
                int(scale * MOST_SKEWED * size.least) + 1,
                size.step,
            )
            for size in rest
        )
        for widths in product(*ranges):
            if _skew(sizes, (width, *widths)) <= MOST_SKEWED:
                yield width, *widths


def _up(width: float, size: Size) -> int:
    return size.least + ceil((width - size.least) / size.step) * size.step


def _skew(sizes: Sequence[Size], widths: Sequence[int]) -> float:
    scales = [width / size.least for size, width in zip(sizes, widths, strict=True)]
    return max(scales) / min(scales)
