"""Initial weights: the last step zero, the others random, equal bits on every machine."""

from hashlib import sha256

import torch
from torch import Tensor

from esper.blueprint import ParameterSpec
from esper.kernel import TORCH_DTYPES, KernelPlan


def initial_tensors(plan: KernelPlan) -> dict[str, Tensor]:
    """Return a plan's weights by full name: zeros for the last step, the others as specified.

    Each weight has its own generator, seeded by the kernel's id and the parameter's name, so
    neither the order nor the process changes a bit.
    """
    dtype = TORCH_DTYPES[plan.signature.dtype]
    zero = {f"{plan.steps[-1].node}.{spec.name}" for spec in plan.layout[-1].parameters}
    return {
        name: torch.zeros(spec.shape, dtype=dtype)
        if name in zero
        else _draw(spec, f"{plan.kernel_id}/{name}").to(dtype)
        for name, spec in plan.parameters.items()
    }


def _draw(spec: ParameterSpec, seed: str) -> Tensor:
    if spec.bound == 0:
        return torch.full(spec.shape, spec.mean)
    generator = torch.Generator().manual_seed(
        int.from_bytes(sha256(seed.encode()).digest()[:8], "little")
    )
    # Unlike `uniform_`, which may fuse operations, `rand` and the operations below round once
    # each, so the bits do not depend on the CPU's instruction set.
    unit = torch.rand(spec.shape, generator=generator)
    return unit.mul_(2 * spec.bound).add_(spec.mean - spec.bound)
