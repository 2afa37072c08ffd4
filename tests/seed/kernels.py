"""Kernels as compile workers make them, built in this process and planted by hand."""

from functools import cache

import torch
from torch import nn

from esper.blueprint import request_for, shipped_named
from esper.compiler import Built, build_kernel
from esper.kernel import UNSIGNED, Kernel, sign_announcement, unpack
from esper.seed import Seed, Site
from esper.store import KernelStore
from esper.topics.models import KernelCost, KernelReady, SiteSignature
from tests.keys import KEY


@cache
def built(blueprint_id: str, signature: SiteSignature) -> Built:
    """Return the result that a compile worker publishes for a shipped blueprint at a site."""
    outcome = build_kernel(request_for(shipped_named(blueprint_id), signature))
    assert isinstance(outcome, Built), outcome
    return outcome


def kernel_for(blueprint_id: str, signature: SiteSignature) -> Kernel:
    """Return a fresh kernel from the published bytes."""
    made = built(blueprint_id, signature)
    return Kernel(*unpack(made.artifact), made.sha256)


def announced(store: KernelStore, blueprint_id: str, signature: SiteSignature) -> KernelReady:
    """Put a kernel into a store, and return its `KernelReady`."""
    request = request_for(shipped_named(blueprint_id), signature)
    made = built(blueprint_id, signature)
    unsigned = KernelReady(
        kernel_id=request.kernel_id,
        blueprint_id=blueprint_id,
        category=request.blueprint.category,
        site_signature=signature,
        location=store.put(request.kernel_id, made.artifact).location,
        sha256=made.sha256,
        ed25519_signature=UNSIGNED,
        bytes=len(made.artifact),
        params=made.characterisation.params,
        cost=KernelCost(flops=made.characterisation.flops),
    )
    return sign_announcement(KEY, unsigned)


def plant(site: Site, slot: int, blueprint_id: str, alpha: float = 1.0) -> Seed:
    """Plant a fresh kernel at a site."""
    seed = Seed(kernel_for(blueprint_id, site.signature), alpha)
    site.plant(slot, seed)
    return seed


def awaken(module: nn.Module, seed: int = 0) -> None:
    """Add noise to parameters, as if trained, so that kernels have nonzero output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
