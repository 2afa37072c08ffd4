"""What is believed of an arm before its first trial, as trials that never were."""

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
    worth: Priors,
) -> list[Prior]:
    """Return the prior of each kernel: from its cost among those of its site, and from memory.

    `signatures` gives each site's, by which memory finds it. Beliefs are joined as trials are: the
    weights add up, the mean is the weighted one. The cost prior is neutral for a kernel of median
    cost, and half of `worth.cost_spread` above or below it for the cheapest or dearest. What
    earlier runs found of the blueprint counts as at most `worth.memory` trials, and what they found
    of others of its category, at sites of its signature, as at most `worth.category`.
    """
    known = {(each.signature, each.blueprint_id): each for each in memory}
    recalled = [known.get((signatures.get(it.site, ""), it.blueprint_id)) for it in kernels]
    kinds = _by_kind(kernels, recalled)
    beliefs = zip(kernels, cost_ranks_by_site(kernels), recalled, strict=True)
    return [
        _joined(
            _cost_prior(ranks, worth),
            _capped([found] if found else [], worth.memory),
            _capped(_kindred(kernel, signatures, kinds), worth.category),
        )
        for kernel, ranks, found in beliefs
    ]


Kinds = Mapping[tuple[str, str], Mapping[str, RememberedArm]]
"""What is remembered of each blueprint on offer, by signature and category."""


def _by_kind(kernels: Sequence[LoadableKernel], recalled: Sequence[RememberedArm | None]) -> Kinds:
    kinds: dict[tuple[str, str], dict[str, RememberedArm]] = {}
    for kernel, found in zip(kernels, recalled, strict=True):
        if found is not None:
            of_kind = kinds.setdefault((found.signature, kernel.category), {})
            of_kind[kernel.blueprint_id] = found
    return kinds


def _kindred(
    kernel: LoadableKernel, signatures: Mapping[str, str], kinds: Kinds
) -> list[RememberedArm]:
    """Return what is remembered of other blueprints of a kernel's category at such sites."""
    of_kind = kinds.get((signatures.get(kernel.site, ""), kernel.category), {})
    return [found for name, found in of_kind.items() if name != kernel.blueprint_id]


def _cost_prior(ranks: CostRanks, worth: Priors) -> Prior:
    known = [rank for rank in (ranks.params, ranks.latency, ranks.memory) if rank is not None]
    if not known or not worth.cost:
        return NO_PRIOR
    mean_rank = math.fsum(known) / len(known)
    return Prior(worth.cost, NEUTRAL + worth.cost_spread * (0.5 - mean_rank))


def _capped(found: Sequence[RememberedArm], worth: float) -> Prior:
    """Return what earlier runs found, as one belief that counts at most `worth` trials."""
    weight = math.fsum(each.weight for each in found)
    if not weight or not worth:
        return NO_PRIOR
    mean = math.fsum(each.weight * each.mean for each in found) / weight
    return Prior(min(weight, worth), found[0].mean if len(found) == 1 else mean)


def _joined(*beliefs: Prior) -> Prior:
    joined = NO_PRIOR
    for belief in beliefs:
        weight = joined.weight + belief.weight
        if belief.weight:
            share = belief.weight / weight
            joined = Prior(weight, joined.mean + (belief.mean - joined.mean) * share)
    return joined
