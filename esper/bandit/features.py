"""What is known of an arm before its first trial, as numbers that a linear model can weigh."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from esper.bandit.arm_arrays import FloatArray
from esper.bandit.ranks import cost_ranks_by_site, ranks
from esper.topics.models import LoadableKernel, SiteFacts, SiteKind

BUCKETS: Final = 16
"""Categories are open to whoever writes a blueprint; a digest puts each in one of so many."""

SALT: Final = b"6"
"""With it no two categories of the shipped catalog fall into one bucket."""

UNKNOWN: Final = 0.5
"""What a rank or a place between 0 and 1 is where it is not known: the middle."""

FEATURES: Final = (
    *("bias", "depth"),
    *(f"kind-{kind.value}" for kind in SiteKind),
    *("gradient", "params", "flops", "latency", "memory"),
    *(f"category-{bucket}" for bucket in range(BUCKETS)),
)
"""The name of each column, in order."""


def features(
    facts: Mapping[str, SiteFacts],
    gradients: Mapping[str, float],
    kernels: Sequence[LoadableKernel],
) -> FloatArray:
    """Return the features (n, d) of arms, one for each kernel, all in [0, 1].

    `facts` and `gradients` are by site. Of the site: depth, kind (one of three is 1), and the rank
    of its gradient norm among the sites that have one. Of the kernel: the ranks of its costs among
    the kernels of its site, and the bucket of its category (one of sixteen is 1). What is not known
    is in the middle, and a kind that is not known is none.
    """
    sites = {site: _of_site(facts.get(site)) for site in {kernel.site for kernel in kernels}}
    norms = dict(zip(gradients, ranks(list(gradients.values())), strict=True))
    rows = [
        (
            *sites[kernel.site],
            _known(norms.get(kernel.site)),
            *map(_known, (costs.params, costs.flops, costs.latency, costs.memory)),
            *_of_category(kernel.category),
        )
        for kernel, costs in zip(kernels, cost_ranks_by_site(kernels), strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(kernels), len(FEATURES))


def _of_site(facts: SiteFacts | None) -> tuple[float, ...]:
    if facts is None:
        return (1.0, UNKNOWN, *(0.0 for _ in SiteKind))
    return (1.0, facts.depth, *(float(kind is facts.kind) for kind in SiteKind))


@lru_cache(maxsize=1024)
def _of_category(category: str) -> tuple[float, ...]:
    digest = hashlib.blake2b(category.encode(), digest_size=8, salt=SALT).digest()
    bucket = int.from_bytes(digest, "big") % BUCKETS
    return tuple(float(each == bucket) for each in range(BUCKETS))


def _known(rank: float | None) -> float:
    return UNKNOWN if rank is None else rank
