"""What is believed of an arm before its first trial, as trials that never were."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from esper.bandit.ranks import CostRanks, cost_ranks_by_site
from topics.models import LoadableKernel, Priors, Remembered

COST_SPREAD = 0.2
"""How far apart the expected rewards of the cheapest and the dearest kernel of a site are."""

NEUTRAL = 0.5
"""The reward of a kernel that does nothing."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Pseudo-observations: `weight` trials of mean reward `mean`."""

    weight: float
    mean: float


NO_PRIOR = Prior(0.0, 0.0)


def priors_for(
    kernels: Sequence[LoadableKernel],
    signatures: Mapping[str, str],
    memory: Iterable[Remembered],
    worth: Priors,
) -> list[Prior]:
    """Return the prior of each kernel: from its cost among those of its site, and from memory.

    `signatures` gives each site's, by which memory finds it. Beliefs are joined as trials are: the
    weights add up, the mean is the weighted one. The cost prior is neutral for a kernel of median
    cost, and half of `COST_SPREAD` above or below it for the cheapest or dearest; what earlier
    runs found counts as at most `worth.memory` trials.
    """
    known = {(each.signature, each.blueprint_id): each for each in memory}
    return [
        _joined(_cost_prior(ranks, worth.cost), _memory_prior(kernel, signatures, known, worth))
        for kernel, ranks in zip(kernels, cost_ranks_by_site(kernels), strict=True)
    ]


def _cost_prior(ranks: CostRanks, weight: float) -> Prior:
    known = [rank for rank in (ranks.params, ranks.latency, ranks.memory) if rank is not None]
    if not known or not weight:
        return NO_PRIOR
    return Prior(weight, NEUTRAL + COST_SPREAD * (0.5 - math.fsum(known) / len(known)))


def _memory_prior(
    kernel: LoadableKernel,
    signatures: Mapping[str, str],
    known: Mapping[tuple[str, str], Remembered],
    worth: Priors,
) -> Prior:
    found = known.get((signatures.get(kernel.site, ""), kernel.blueprint_id))
    if found is None or not worth.memory:
        return NO_PRIOR
    return Prior(min(found.weight, worth.memory), found.mean)


def _joined(first: Prior, second: Prior) -> Prior:
    weight = first.weight + second.weight
    if not weight:
        return NO_PRIOR
    return Prior(weight, first.mean + (second.mean - first.mean) * (second.weight / weight))
