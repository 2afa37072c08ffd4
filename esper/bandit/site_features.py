"""Features of arms for contextual policies; known before an arm's first trial."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from esper.bandit.arm_arrays import FloatArray
from esper.bandit.ranks import cost_ranks_by_site, ranks
from esper.topics.models import LoadableKernel, SiteFacts, SiteKind

BUCKETS: Final = 16
"""Blueprints may name any category; a digest maps each category to one of these buckets."""

SALT: Final = b"6"
"""With this salt the categories of the shipped catalog have distinct buckets."""

UNKNOWN: Final = 0.5
"""The value of an unknown rank or depth: the middle of [0, 1]."""

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
    """Return the features (n, d) of n kernels, in [0, 1].

    `facts` and `gradients` are by site. Site features: depth, kind (one-hot of three), and the rank
    of the gradient norm among the sites with one. Kernel features: the ranks of its costs among the
    kernels of its site, and the bucket of its category (one-hot of sixteen). Unknown numbers are
    0.5; an unknown kind is all zeros.
    """
    sites = {site: _of_site(facts.get(site)) for site in {kernel.site for kernel in kernels}}
    norms = dict(zip(gradients, ranks(list(gradients.values())), strict=True))
    rows = [
        (
            *sites[kernel.site],
            _or_middle(norms.get(kernel.site)),
            *map(_or_middle, (costs.params, costs.flops, costs.latency, costs.memory)),
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
    return tuple(float(index == bucket) for index in range(BUCKETS))


def _or_middle(rank: float | None) -> float:
    return UNKNOWN if rank is None else rank
