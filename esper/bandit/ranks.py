"""Cost ranks of kernels."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from esper.topics.models import LoadableKernel


@dataclass(frozen=True, slots=True)
class CostRanks:
    """The cost ranks of a kernel among others: the share of cheaper ones, ties counting half.

    0 is the cheapest, 1 the most expensive, 0.5 a single kernel, None an unknown cost.
    """

    params: float | None
    flops: float | None
    latency: float | None
    memory: float | None


def cost_ranks(kernels: Sequence[LoadableKernel]) -> list[CostRanks]:
    """Return the ranks of kernels of one signature, such as all kernels of a site, in order."""
    costs = [kernel.cost for kernel in kernels]
    columns: tuple[Sequence[float | None], ...] = (
        [kernel.params for kernel in kernels],
        [None if cost is None else cost.flops for cost in costs],
        [None if cost is None else cost.latency_ratio for cost in costs],
        [None if cost is None else cost.memory_ratio for cost in costs],
    )
    return [CostRanks(*row) for row in zip(*map(ranks, columns), strict=True)]


def cost_ranks_by_site(kernels: Sequence[LoadableKernel]) -> list[CostRanks]:
    """Return the ranks of each kernel among the kernels of its site, in order."""
    indexes: dict[str, list[int]] = {}
    for index, kernel in enumerate(kernels):
        indexes.setdefault(kernel.site, []).append(index)
    found: dict[int, CostRanks] = {}
    for of_site in indexes.values():
        found.update(zip(of_site, cost_ranks([kernels[index] for index in of_site]), strict=True))
    return [found[index] for index in range(len(kernels))]


def ranks(values: Sequence[float | None]) -> list[float | None]:
    """Return the rank of each value among the known ones, from 0 to 1; None if unknown."""
    known = sorted(value for value in values if value is not None)
    return [None if value is None else _rank(value, known) for value in values]


def _rank(value: float, known: Sequence[float]) -> float:
    """Return the rank of a value in a sorted list, from 0 to 1."""
    if len(known) == 1:
        return 0.5
    below, up_to = bisect_left(known, value), bisect_right(known, value)
    return (below + up_to - 1) / 2 / (len(known) - 1)
