"""The parameters and buffers that a captured region reads, and stand-ins for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.seed.cuda.parallel_branches import CapturedRegion
from esper.seed.seed import last_op


@dataclass(frozen=True, slots=True)
class CapturedTensor:
    """A parameter or buffer of a module, and the memory address that a graph reads.

    `owner` is the module's dictionary that holds the tensor. For a weight of a kernel's last op,
    `alpha` is the dictionary that holds the seed's alpha, and `is_bias` marks the bias of a
    convolution over images.
    """

    owner: dict[str, Any]
    name: str
    tensor: Tensor
    address: int
    requires_grad: bool
    alpha: dict[str, Any] | None
    is_bias: bool

    def is_current(self) -> bool:
        """Return whether the module still holds this tensor, at the same address."""
        tensor = self.tensor
        return (
            self.owner.get(self.name) is tensor
            and tensor.data_ptr() == self.address
            and tensor.requires_grad == self.requires_grad
        )


def captured_tensors(region: CapturedRegion) -> Iterator[CapturedTensor]:
    """Yield every parameter and buffer that a region reads; a seed's alpha before its weights."""
    # Only the layer's own tensors: the seeds are among its submodules too.
    if region.layer is not None:
        yield from _tensors_of(region.layer)
    for seed in region.seeds:
        last = last_op(seed.kernel)
        for module in seed.modules():
            if module is last:
                is_conv2d = seed.kernel.plan.steps[-1].op == "conv2d"
                yield from _tensors_of(module, seed._buffers, is_conv2d)
            else:
                yield from _tensors_of(module)


def _tensors_of(
    module: nn.Module, alpha: dict[str, Any] | None = None, is_conv2d: bool = False
) -> Iterator[CapturedTensor]:
    owners: tuple[dict[str, Any], ...] = (module._buffers, module._parameters)
    for owner in owners:
        for name, tensor in owner.items():
            if tensor is not None:
                yield CapturedTensor(
                    owner,
                    name,
                    tensor,
                    tensor.data_ptr(),
                    tensor.requires_grad,
                    alpha,
                    is_conv2d and name == "bias",
                )


@contextmanager
def tensors_replaced(
    tensors: Sequence[CapturedTensor], stand_ins: Sequence[Tensor], *, fused: bool
) -> Iterator[None]:
    """Replace tensors of modules by stand-ins; if `fused`, prepare last ops for `sum_terms`."""
    try:
        for captured, stand_in in zip(tensors, stand_ins, strict=True):
            captured.owner[captured.name] = stand_in
        if fused:
            _fuse([captured for captured in tensors if captured.alpha is not None])
        yield
    finally:
        for captured in tensors:
            captured.owner[captured.name] = captured.tensor


def _fuse(last: Sequence[CapturedTensor]) -> None:
    """Multiply the weights of the kernels' last ops by alpha, and sum their biases.

    A last op is linear in its weights, so this multiplies the kernel's output: a product of small
    tensors in place of a large one, forward and backward. Each bias of a convolution costs a pass
    over memory, forward and backward; one kernel adds the sum of all.
    """
    for captured in last:
        assert captured.alpha is not None
        captured.owner[captured.name] = captured.alpha["alpha"] * captured.owner[captured.name]
    image_ops = [captured.owner for captured in last if captured.is_bias]
    if len(image_ops) > 1:
        first, *others = image_ops
        first["bias"] = torch.stack([owner["bias"] for owner in image_ops]).sum(0)
        for owner in others:
            owner["bias"] = None
