"""Kernels that are chains of ops, for tests of merging."""

from typing import Any

import torch
from torch import Tensor, nn

from esper.kernel import Kernel, KernelPlan, PlanStep
from esper.seed import Seed, Site, find_sites

Op = tuple[str, dict[str, Any]]


def lone_site(layer: nn.Module, x: Tensor) -> Site:
    """Return the site of a lone layer with batch `x`; layer and kernels may be float64."""
    return find_sites(nn.Sequential(layer), ["0"], x[:1].float(), slots=3)["0"]


def chain(site: Site, start: int, *ops: Op, seed: int = 0) -> Kernel:
    """Return a kernel with random weights that applies `ops` in turn, first to value `start`."""
    steps = tuple(
        PlanStep(node=f"n{at}", op=op, inputs=(at + 1 if at else start,), args=args)
        for at, (op, args) in enumerate(ops)
    )
    plan = KernelPlan(kernel_id="0" * 64, signature=site.signature, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(spec.shape, generator=generator) for name, spec in plan.parameters.items()
    }
    return Kernel(plan, tensors, sha256="0" * 64)


def linear(out: int, bias: bool = True) -> Op:
    """A product with a matrix, over the last dimension."""
    return "linear", {"out": out, "bias": bias}


def conv(out: int, bias: bool = True, *, kernel: int = 1, groups: int = 1) -> Op:
    """A convolution; pointwise by default."""
    args = {"out": out, "kernel": kernel, "groups": groups, "dilation": 1, "stride": 1}
    return "conv2d", args | {"bias": bias}


SCALE: Op = ("scale", {})
OFFSET: Op = ("bias", {})


def plant_chain(site: Site, slot: int, kernel: Kernel, alpha: float = 0.7) -> Seed:
    """Plant a kernel."""
    seed = Seed(kernel, alpha)
    site.plant(slot, seed)
    return seed
