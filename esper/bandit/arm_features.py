"""Arms as arrays for constraints: one array per fact, the arms of one site adjacent."""

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
    """n arms in the order of (site, blueprint_id).

    `sites` holds the range of each site's arms, `by_kernel` the index of each (site, kernel_id),
    `by_category` the indexes of each (site, category). Cost ratios are NaN where unknown. `banned`
    holds the constraint that rules an arm out for the whole run, or 0; `latest_embargo` is the
    maximum of `embargo_until`.
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
        """Return the features of kernels sorted by (site, blueprint_id)."""
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
            memory_ratio=_with_nan([cost.memory_ratio if cost else None for cost in costs]),
            latency_ratio=_with_nan([cost.latency_ratio if cost else None for cost in costs]),
            embargo_until=np.array(embargo_until, np.int64),
            latest_embargo=max(embargo_until, default=0),
            banned=banned,
            any_banned=bool(banned.any()),
        )

    def with_embargo(self, indexes: Sequence[int], until_seq: int) -> "ArmFeatures":
        """Return the features with an embargo on the arms at `indexes` until report `until_seq`."""
        embargo_until = self.embargo_until.copy()
        embargo_until[list(indexes)] = until_seq
        latest = max(self.latest_embargo, until_seq)
        return replace(self, embargo_until=embargo_until, latest_embargo=latest)

    def of_site(self, site: str) -> slice:
        """Return the range of a site's arms; an empty range for a site without arms."""
        return self.sites.get(site, EMPTY_RANGE)


EMPTY_RANGE = slice(0, 0)


def _slices(kernels: Sequence[LoadableKernel]) -> dict[str, slice]:
    slices: dict[str, slice] = {}
    for index, kernel in enumerate(kernels):
        first = slices.get(kernel.site, slice(index, index)).start
        slices[kernel.site] = slice(first, index + 1)
    return slices


def _with_nan(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)
