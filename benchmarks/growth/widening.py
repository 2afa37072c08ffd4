"""The same host made wider, until it has as many parameters as one that grew."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import ceil
from typing import Final, NamedTuple

MOST_SKEWED: Final = 1.3
"""How much more than another any size may be widened: it is to remain the same host."""


class Size(NamedTuple):
    """One size of a host: what it is, and the step by which it can be more."""

    least: int
    step: int = 1


def widened(
    sizes: Sequence[Size], params_of: Callable[..., int], params: int, at_most: float = 8.0
) -> tuple[int, ...]:
    """Return sizes with which a host has as near to `params` as can be, `at_most` times as large.

    Of several that are as near, the one whose sizes grew most alike.
    """
    return min(
        _widths(sizes, at_most),
        key=lambda widths: (abs(params_of(*widths) - params), _skew(sizes, widths)),
    )


def _widths(sizes: Sequence[Size], at_most: float) -> Iterator[tuple[int, ...]]:
    first, *others = sizes
    for width in range(first.least, int(first.least * at_most) + 1, first.step):
        scale = width / first.least
        ranges = (
            range(
                max(size.least, _up(scale / MOST_SKEWED * size.least, size)),
                int(scale * MOST_SKEWED * size.least) + 1,
                size.step,
            )
            for size in others
        )
        for rest in product(*ranges):
            if _skew(sizes, (width, *rest)) <= MOST_SKEWED:
                yield width, *rest


def _up(width: float, size: Size) -> int:
    return size.least + ceil((width - size.least) / size.step) * size.step


def _skew(sizes: Sequence[Size], widths: Sequence[int]) -> float:
    scales = [width / size.least for size, width in zip(sizes, widths, strict=True)]
    return max(scales) / min(scales)
