"""The artifact: one safetensors file with a kernel's weights, and its plan as metadata.

The encoding is canonical: `unpack` refuses bytes that `pack` would not write, so a plan and its
weights have exactly one artifact.
"""

from collections.abc import Mapping
from math import prod
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper.kernel.metadata import LENGTH_BYTES, PLAN_KEY, check_length, plan_of
from esper.kernel.plan import KernelPlan
from esper.kernel.refusal import ArtifactRefused

TORCH_DTYPES: Final = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""The torch dtype for each dtype of a signature."""


def pack(plan: KernelPlan, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the artifact of a plan and its weights; equal arguments give equal bytes.

    Raises:
        ArtifactRefused: the weights do not match the plan, or the artifact is too large.
    """
    _check_tensors(plan, tensors)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    data = save(contiguous, metadata={PLAN_KEY: plan.to_json().decode()})
    check_length(data)
    return data


def unpack(data: bytes) -> tuple[KernelPlan, dict[str, Tensor]]:
    """Return the plan of an artifact, and its weights by full parameter name.

    Raises:
        ArtifactRefused: `pack` did not write these bytes.
    """
    plan = plan_of(data)
    _check_size(plan, data)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ArtifactRefused(f"not a safetensors file: {error}") from error
    if pack(plan, tensors) != data:
        raise ArtifactRefused("the artifact is not in canonical form")
    return plan, tensors


def _check_size(plan: KernelPlan, data: bytes) -> None:
    """Raise ArtifactRefused, before reading weights, if the size differs from the plan's."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    weights = plan.params * TORCH_DTYPES[plan.signature.dtype].itemsize
    if len(data) != LENGTH_BYTES + length + weights:
        raise ArtifactRefused(
            f"the artifact has {len(data) - LENGTH_BYTES - length} bytes of weights; "
            f"its plan needs {weights}"
        )


def _check_tensors(plan: KernelPlan, tensors: Mapping[str, Tensor]) -> None:
    if tensors.keys() != plan.parameters.keys():
        odd = sorted(tensors.keys() ^ plan.parameters.keys())
        raise ArtifactRefused(f"weights and plan have different parameters: {', '.join(odd)}")
    dtype = TORCH_DTYPES[plan.signature.dtype]
    for name, parameter in plan.parameters.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape or tensor.dtype != dtype:
            raise ArtifactRefused(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype}; "
                f"the plan says {parameter.shape} {dtype}"
            )
        if prod(parameter.shape) and not bool(torch.isfinite(tensor).all()):
            raise ArtifactRefused(f"{name} contains NaN or infinity")
