"""A planted kernel with its blend factor, and the sum of a site's seeds."""

from collections.abc import Callable, Sequence
from typing import Final, Self

import torch
from torch import Tensor, nn

from esper.kernel import Kernel, attribute_of

X: Final = 0
H: Final = 1
"""The value indices at which a kernel plan holds x and h."""

IMAGE_RANK: Final = 4


def reads(kernel: nn.Module, value: int) -> bool:
    """Return whether a kernel reads `X` or `H`; a module without a plan may read both."""
    plan = getattr(kernel, "plan", None)
    return plan is None or any(value in step.inputs for step in plan.steps)


def last_op(kernel: nn.Module) -> nn.Module | None:
    """Return the module with the weights of a plan's last op; None for a module without a plan.

    The last op is linear in its weights, so zero weights make a fresh kernel a no-op.
    """
    plan = getattr(kernel, "plan", None)
    return None if plan is None else kernel._modules[attribute_of(plan.steps[-1].node)]


class Seed(nn.Module):
    """One planted kernel and its blend factor.

    `alpha` is a tensor, so changing it recompiles nothing: a scalar in training, one value per
    sample (shape (B,)) while contributions are measured.
    """

    alpha: Tensor

    def __init__(self, kernel: Kernel, alpha: float = 0.0) -> None:
        super().__init__()
        self.kernel = kernel
        self.reads_x, self.reads_h = reads(kernel, X), reads(kernel, H)
        # Created on the kernel's device: a copy to a GPU would wait for the queued work.
        device = next((weight.device for weight in kernel.parameters()), None)
        self.register_buffer("alpha", torch.full((), alpha, device=device))

    def match_memory_format(self, layer: nn.Module) -> Self:
        """Convert weights to channels last if the layer's are; call before an optimizer has them.

        Returns the seed itself.
        """
        weight = layer._parameters.get("weight")
        if (
            weight is not None
            and weight.dim() == IMAGE_RANK
            and weight.stride(3) > weight.stride(1)
        ):
            self.to(memory_format=torch.channels_last)
        return self

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return alpha * k(x, h), of the shape of `h`."""
        return self.with_alpha(self.kernel(x, h), h)

    def with_alpha(self, output: Tensor, h: Tensor) -> Tensor:
        """Return alpha times a kernel's output, in the dtype of `h`."""
        alpha = self.alpha
        if alpha.dim():
            alpha = alpha.to(h.dtype).view(-1, *[1] * (h.dim() - 1))
        # Under autocast a kernel may end in a wider type than the layer.
        return (alpha * output).to(h.dtype)


def sum_sequentially(host: Callable[[Tensor], Tensor], x: Tensor, seeds: Sequence[Seed]) -> Tensor:
    """Return y = h + alpha * k(x, h) + ..., h = host(x); each kernel is added before the next."""
    y = h = host(x)
    for seed in seeds:
        y = y + seed(x, h)
    return y
