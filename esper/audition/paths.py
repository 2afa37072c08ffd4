"""What trains in an audition: a kernel, or the control, each with a readout behind it."""

from hashlib import sha256
from math import prod
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.audition.readout import ReadoutSizes, correction, features_of
from esper.kernel import TORCH_DTYPES, Kernel, KernelPlan, attribute_of, draw_parameter
from esper.topics.models import SiteKind, SiteSignature

CONTROL_KERNEL: Final = 3
"""Size of the filters of the control at a feature map."""


class AuditionPath(nn.Module):
    """A module from x and h to features, and the readout of these.

    The readout starts at zero, so that an untrained path changes nothing.
    """

    def __init__(self, body: nn.Module, sizes: ReadoutSizes) -> None:
        super().__init__()
        self.body = body
        self.readout = nn.Parameter(torch.zeros(sizes.features + 1, sizes.outputs))
        self._sizes = sizes

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the correction (N, P, C) of the host's outputs for x (N, *x) and h (N, *h)."""
        return correction(features_of(self.body(x, h), self._sizes), self.readout)


def kernel_path(plan: KernelPlan, sizes: ReadoutSizes, seed: str) -> AuditionPath:
    """Return the path of a kernel whose weights, those of the last step too, are drawn at random.

    A planted kernel starts with zeros there; here the zeros of the readout make it a no-op.
    """
    drawn = {name: draw_parameter(spec, f"{seed}/{name}") for name, spec in plan.parameters.items()}
    return AuditionPath(Kernel(plan, drawn, ""), sizes)


def trained_weights(path: AuditionPath) -> dict[str, Tensor]:
    """Return a kernel's weights by parameter name, on the CPU; the last step's are zeros."""
    kernel = path.body
    assert isinstance(kernel, Kernel)
    last, dtype = kernel.plan.steps[-1].node, TORCH_DTYPES[kernel.plan.signature.dtype]
    weights = {}
    for name in kernel.plan.parameters:
        node, _, parameter = name.partition(".")
        tensor = kernel.get_submodule(attribute_of(node)).get_parameter(parameter).detach()
        tensor = tensor.to("cpu", dtype, copy=True)
        weights[name] = torch.zeros_like(tensor) if node == last else tensor
    return weights


def control_path(signature: SiteSignature, sizes: ReadoutSizes, seed: str) -> AuditionPath:
    """Return a path like the host's own layer: an affine map of x, or a convolution, and a ReLU.

    A kernel that gains no more only makes the host wider.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number_of(seed))
        return AuditionPath(_Control(signature), sizes)


def number_of(seed: str) -> int:
    """Return the number that seeds torch's generator for a text."""
    return int.from_bytes(sha256(seed.encode()).digest()[:7], "little")


class _Control(nn.Module):
    def __init__(self, signature: SiteSignature) -> None:
        super().__init__()
        self._kind, self._h = signature.kind, signature.h
        if signature.kind is SiteKind.FEATURE_MAP:
            padding = CONTROL_KERNEL // 2
            self.layer: nn.Module = nn.Conv2d(
                signature.x[0], signature.h[0], CONTROL_KERNEL, padding=padding
            )
        elif signature.kind is SiteKind.SEQUENCE:
            self.layer = nn.Linear(signature.x[-1], signature.h[-1])
        else:
            self.layer = nn.Linear(prod(signature.x), prod(signature.h))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        value = F.relu(self.layer(x))
        if self._kind is SiteKind.FEATURE_MAP:
            return F.adaptive_avg_pool2d(value, (self._h[1], self._h[2]))
        return value
