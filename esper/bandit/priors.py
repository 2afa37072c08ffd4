"""Priors of arms: pseudo-observations from kernel costs and from the memory of earlier runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from esper.bandit.ranks import CostRanks, cost_ranks_by_site
from esper.topics.models import LoadableKernel, Priors, RememberedArm

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
    memory: Iterable[RememberedArm],
    settings: Priors,
) -> list[Prior]:
    """Return the prior of each kernel, from its cost rank at its site and from memory.

    `signatures` maps sites to the signatures that memory uses. Priors combine like trials: weights
    add up, means are weighted. The cost prior is neutral at the median cost, and half of
    `settings.cost_spread` above or below it for the cheapest or most expensive kernel. Remembered
    trials of the blueprint count as at most `settings.memory` trials; those of other blueprints of
    its category, at sites of its signature, as at most `settings.category`.
    """
    by_name = {(arm.signature, arm.blueprint_id): arm for arm in memory}
    recalled = [
        by_name.get((signatures.get(kernel.site, ""), kernel.blueprint_id)) for kernel in kernels
    ]
    by_category = _by_category(kernels, recalled)
    rows = zip(kernels, cost_ranks_by_site(kernels), recalled, strict=True)
    return [
        _combined(
            _cost_prior(ranks, settings),
            _capped([found] if found else [], settings.memory),
            _capped(_same_category(kernel, signatures, by_category), settings.category),
        )
        for kernel, ranks, found in rows
    ]


ByCategory = Mapping[tuple[str, str], Mapping[str, RememberedArm]]
"""The remembered arms of available blueprints, by (signature, category) and blueprint_id."""


def _by_category(
    kernels: Sequence[LoadableKernel], recalled: Sequence[RememberedArm | None]
) -> ByCategory:
    by_category: dict[tuple[str, str], dict[str, RememberedArm]] = {}
    for kernel, found in zip(kernels, recalled, strict=True):
        if found is not None:
            arms = by_category.setdefault((found.signature, kernel.category), {})
            arms[kernel.blueprint_id] = found
    return by_category


def _same_category(
    kernel: LoadableKernel, signatures: Mapping[str, str], by_category: ByCategory
) -> list[RememberedArm]:
    """Return the remembered arms of other blueprints with the kernel's category and signature."""
    arms = by_category.get((signatures.get(kernel.site, ""), kernel.category), {})
    return [found for name, found in arms.items() if name != kernel.blueprint_id]


def _cost_prior(ranks: CostRanks, settings: Priors) -> Prior:
    known = [rank for rank in (ranks.params, ranks.latency, ranks.memory) if rank is not None]
    if not known or not settings.cost:
        return NO_PRIOR
    mean_rank = math.fsum(known) / len(known)
    return Prior(settings.cost, NEUTRAL + settings.cost_spread * (0.5 - mean_rank))


def _capped(found: Sequence[RememberedArm], max_weight: float) -> Prior:
    """Return the remembered arms as one prior of at most `max_weight` trials."""
    weight = math.fsum(arm.weight for arm in found)
    if not weight or not max_weight:
        return NO_PRIOR
    mean = math.fsum(arm.weight * arm.mean for arm in found) / weight
    return Prior(min(weight, max_weight), found[0].mean if len(found) == 1 else mean)


def _combined(*priors: Prior) -> Prior:
    combined = NO_PRIOR
    for prior in priors:
        weight = combined.weight + prior.weight
        if prior.weight:
            share = prior.weight / weight
            combined = Prior(weight, combined.mean + (prior.mean - combined.mean) * share)
    return combined
