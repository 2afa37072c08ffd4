"""Arms as constraints see them: one column for each fact, arms of one site side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from esper.topics.models import LoadableKernel

Codes: TypeAlias = NDArray[np.int8]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ArmFeatures:
    """n arms in the order of (site, blueprint).

    `sites` gives where each site's arms begin and end, `by_kernel` the place of each
    (site, kernel_id), `by_category` the places of each (site, category). Cost ratios are NaN where
    they are not known. `banned` is what rules an arm out for the whole run, 0 where nothing does;
    `latest_embargo` the greatest of `embargo_until`.
    """

    kernels: tuple[LoadableKernel, ...]
    sites: Mapping[str, slice]
    by_kernel: Mapping[tuple[str, str], int]
    by_category: Mapping[tuple[str, str], Sequence[int]]
    params: Integers
    memory_ratio: NDArray[np.float64]
    latency_ratio: NDArray[np.float64]
    embargo_until: Integers
    latest_embargo: int
    banned: Codes
    any_banned: bool

    @classmethod
    def of(
        cls, kernels: Sequence[LoadableKernel], embargo_until: Sequence[int], banned: Codes
    ) -> "ArmFeatures":
        """Return the columns of kernels that are sorted by site and blueprint."""
        by_category: dict[tuple[str, str], list[int]] = {}
        for index, kernel in enumerate(kernels):
            by_category.setdefault((kernel.site, kernel.category), []).append(index)
        costs = [kernel.cost for kernel in kernels]
        return cls(
            kernels=tuple(kernels),
            sites=_slices(kernels),
            by_kernel={
                (kernel.site, kernel.kernel_id): index for index, kernel in enumerate(kernels)
            },
            by_category=by_category,
            params=np.array([kernel.params for kernel in kernels], np.int64),
            memory_ratio=_known([cost.memory_ratio if cost else None for cost in costs]),
            latency_ratio=_known([cost.latency_ratio if cost else None for cost in costs]),
            embargo_until=np.array(embargo_until, np.int64),
            latest_embargo=max(embargo_until, default=0),
            banned=banned,
            any_banned=bool(banned.any()),
        )

    def with_embargo(self, indexes: Sequence[int], until_seq: int) -> "ArmFeatures":
        """Return the offers with some arms left alone until a report."""
        embargo_until = self.embargo_until.copy()
        embargo_until[list(indexes)] = until_seq
        latest = max(self.latest_embargo, until_seq)
        return replace(self, embargo_until=embargo_until, latest_embargo=latest)

    def of_site(self, site: str) -> slice:
        """Where the arms of a site stand; nowhere if there are none."""
        return self.sites.get(site, NOWHERE)


NOWHERE = slice(0, 0)


def _slices(kernels: Sequence[LoadableKernel]) -> dict[str, slice]:
    slices: dict[str, slice] = {}
    for index, kernel in enumerate(kernels):
        first = slices.get(kernel.site, slice(index, index)).start
        slices[kernel.site] = slice(first, index + 1)
    return slices


def _known(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)
