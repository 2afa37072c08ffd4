"""The weights a kernel is born with: random within, silent without, and the same everywhere."""

from hashlib import sha256

import torch
from torch import Tensor

from esper.blueprint import ParameterSpec
from esper.kernel import TORCH_DTYPES, KernelPlan


def initial_tensors(plan: KernelPlan) -> dict[str, Tensor]:
    """Return a plan's weights by full name: those of the last step zero, the others as specified.

    Each is drawn from its own generator, seeded by the kernel's id and the parameter's name, so
    that neither order nor process changes a bit.
    """
    dtype = TORCH_DTYPES[plan.signature.dtype]
    silent = {f"{plan.steps[-1].node}.{spec.name}" for spec in plan.layout[-1].parameters}
    return {
        name: torch.zeros(spec.shape, dtype=dtype)
        if name in silent
        else _draw(spec, f"{plan.kernel_id}/{name}").to(dtype)
        for name, spec in plan.parameters.items()
    }


def _draw(spec: ParameterSpec, seed: str) -> Tensor:
    if spec.bound == 0:
        return torch.full(spec.shape, spec.mean)
    generator = torch.Generator().manual_seed(
        int.from_bytes(sha256(seed.encode()).digest()[:8], "little")
    )
    # `rand` is exact and each operation after it is rounded once, unlike `uniform_`, which may
    # fuse them: the bits do not depend on the instructions of a machine.
    unit = torch.rand(spec.shape, generator=generator)
    return unit.mul_(2 * spec.bound).add_(spec.mean - spec.bound)
