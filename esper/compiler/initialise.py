"""Initial weights: the last step zero, the others random, equal bits on every machine."""

import torch
from torch import Tensor

from esper.kernel import TORCH_DTYPES, KernelPlan, draw_parameter


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
        else draw_parameter(spec, f"{plan.kernel_id}/{name}").to(dtype)
        for name, spec in plan.parameters.items()
    }
