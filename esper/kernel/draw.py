"""Random parameters with equal bits on every machine."""

from hashlib import sha256

import torch
from torch import Tensor

from esper.blueprint import ParameterSpec


def draw_parameter(spec: ParameterSpec, seed: str) -> Tensor:
    """Return a parameter drawn uniformly between its mean minus and plus its bound."""
    if spec.bound == 0:
        return torch.full(spec.shape, spec.mean)
    generator = torch.Generator().manual_seed(
        int.from_bytes(sha256(seed.encode()).digest()[:8], "little")
    )
    # Unlike `uniform_`, which may fuse operations, `rand` and the operations below round once
    # each, so the bits do not depend on the CPU's instruction set.
    unit = torch.rand(spec.shape, generator=generator)
    return unit.mul_(2 * spec.bound).add_(spec.mean - spec.bound)
