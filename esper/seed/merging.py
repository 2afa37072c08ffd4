"""Merge a kernel into the layer of its site, where their sum is again a layer of that type.

A layer computes h = W x + b, a site with one kernel y = h + alpha * k(x, h). If k is a chain of
affine maps of each position, y is affine in x too, and the layer alone can compute it:

- k reads x, k = A x + c:  W' = W + alpha * A,              b' = b + alpha * c
- k reads h, k = A h + c:  W' = W + alpha * A W,            b' = b + alpha * (A b + c)

In a convolution, W has a matrix over channels for each tap, and b and c are the same at every
position. A kernel that reads h multiplies every matrix from the left, for any stride and padding.
A kernel that reads x sees the position of the middle tap, and is added to that tap's matrix: exact
if the layer has stride 1 and keeps the size, because the middle tap then never reads padding.

The code starts from the map that k reads, x = 1 x + 0 or h = W x + b, and applies each op to that
map as to a value. Sums are computed in float64 and rounded once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from esper.errors import EsperError
from esper.kernel import Kernel, attribute_of
from esper.seed.seed import Seed, X
from esper.seed.site import Site


class MergeRefused(EsperError, ValueError):
    """A kernel cannot be merged and stays beside its layer; the message says why."""


class Affine(NamedTuple):
    """The map weight @ v + bias of one position's values; (out, in) and (out,), float64."""

    weight: Tensor
    bias: Tensor


AffineRule = Callable[..., Affine]
"""Apply an op to an `Affine`, given the op's parameters in float64, in the op's order."""


def _multiplied(value: Affine, weight: Tensor, bias: Tensor | None = None) -> Affine:
    matrix = weight.flatten(1)
    product = matrix @ value.bias
    return Affine(matrix @ value.weight, product if bias is None else product + bias)


def _scaled(value: Affine, factor: Tensor) -> Affine:
    factors = factor.flatten()
    return Affine(factors[:, None] * value.weight, factors * value.bias)


def _shifted(value: Affine, offset: Tensor) -> Affine:
    return Affine(value.weight, value.bias + offset.flatten())


_ELEMENTWISE: Final[Mapping[str, AffineRule]] = {"scale": _scaled, "bias": _shifted}

RULES: Final[Mapping[type[nn.Module], Mapping[str, AffineRule]]] = {
    nn.Linear: {**_ELEMENTWISE, "linear": _multiplied},
    # Over feature maps, `linear` is along the width. The two ops after `conv2d` are its CPU forms.
    nn.Conv2d: {
        **_ELEMENTWISE,
        **dict.fromkeys(("conv2d", "conv2d_at_one", "conv2d_as_product"), _multiplied),
    },
}
"""Layer types that kernels merge into, and the one-input ops that are affine there."""

EXACT_DTYPES: Final = (torch.float32, torch.float64)
"""Weight dtypes in which a rounded sum still computes the same as its two terms."""


def merge(site: Site, slot: int, undo: ExitStack | None = None) -> Seed:
    """Add a seed to the weights of its site's layer, remove it from the site and return it.

    The layer's parameters are written in place, because optimizers and graphs refer to them.
    `undo` gets callbacks that restore them, bit for bit, and plant the seed again.

    Raises:
        MergeRefused: the layer cannot compute the sum exactly; nothing has changed.
    """
    seed = site.seed(slot)
    weight, bias = _own_parameters(site)
    if any(other.reads_h for other_slot, other in site.seeds() if other_slot.index != slot):
        raise MergeRefused(f"another seed of {site.name} reads h, which would change")
    rules = RULES[type(site.layer)]
    _check_steps(seed.kernel, rules)
    try:
        total = _sum(site, seed, rules, weight.device)
    except torch.OutOfMemoryError:
        # Not refused: ranks must agree, and another rank may have enough memory.
        total = _sum(site, seed, rules, torch.device("cpu"))
    if bias is None and total.bias.any():
        raise MergeRefused(f"the sum has a bias, and {site.name} has no bias")
    rounded = [total.weight.to(weight.dtype), total.bias.to(weight.dtype)]
    if not all(value.isfinite().all() for value in rounded):
        raise MergeRefused(f"the sum has values that are not finite in {weight.dtype}")
    own = [parameter for parameter in (weight, bias) if parameter is not None]
    if undo is not None:
        undo.callback(_undo_write(own))
        undo.callback(site.undo_point())
    _write(own, rounded[: len(own)])
    return site.remove(slot)


def _undo_write(parameters: Sequence[nn.Parameter]) -> Callable[[], None]:
    """Return a function that restores the present values."""
    return partial(_write, parameters, [parameter.detach().clone() for parameter in parameters])


def _write(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.detach().copy_(value)


def _own_parameters(site: Site) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Return weight and bias of a site's layer; raise MergeRefused if either is fixed."""
    layer = site.layer
    if type(layer) not in RULES:
        raise MergeRefused(f"{site.name} is a {type(layer).__name__}, not an nn.Linear or Conv2d")
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    # Weight normalisation and similar compute the weight from other parameters before each call.
    if type(weight) is not nn.Parameter or {"weight", "bias"} & layer.__dict__.keys():
        raise MergeRefused(f"the weight of {site.name} is computed from other parameters")
    if site.tied:
        raise MergeRefused(f"{site.name} shares a parameter with another layer")
    own = [weight] if bias is None else [weight, bias]
    if not all(parameter.requires_grad for parameter in own):
        raise MergeRefused(f"{site.name} is frozen, at least in part")
    if any(parameter.dtype not in EXACT_DTYPES for parameter in own):
        raise MergeRefused(f"{site.name} is in {weight.dtype}, which rounds a sum too much")
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise MergeRefused(f"{site.name} has {layer.groups} groups")
    return weight, bias


def _check_steps(kernel: Kernel, rules: Mapping[str, AffineRule]) -> None:
    for step in kernel.plan.steps:
        mixes_positions = any(
            step.args.get(name, 1) != 1 for name in ("kernel", "stride", "groups")
        )
        if step.op not in rules or mixes_positions:
            raise MergeRefused(f"{step.op} ({step.node}) is not an affine map of each position")


def _sum(site: Site, seed: Seed, rules: Mapping[str, AffineRule], device: torch.device) -> Affine:
    """Return the layer plus alpha times the kernel, with a weight of the shape of the layer's."""
    layer = site.layer
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.detach().to(device, torch.float64)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight)
    alpha = seed.alpha.to(weight)
    if seed.kernel.plan.steps[0].inputs[0] != X:
        added = _apply_kernel(seed.kernel, Affine(weight.flatten(1), bias), rules)
        return Affine(
            weight + alpha * added.weight.reshape(weight.shape), bias + alpha * added.bias
        )
    features = weight.shape[1]
    eye = torch.eye(features, dtype=weight.dtype, device=weight.device)
    added = _apply_kernel(seed.kernel, Affine(eye, weight.new_zeros(features)), rules)
    total = weight.clone()
    _middle_tap(site.name, layer, total).add_(alpha * added.weight)
    return Affine(total, bias + alpha * added.bias)


def _apply_kernel(kernel: Kernel, value: Affine, rules: Mapping[str, AffineRule]) -> Affine:
    """Return the map that results from applying a kernel's ops to a map.

    Steps with one input each and a single unread result form a chain in plan order.
    """
    for step, layout in zip(kernel.plan.steps, kernel.plan.layout, strict=True):
        captured_tensors = kernel.get_submodule(attribute_of(step.node))
        parameters = [
            captured_tensors.get_parameter(parameter.name).detach().to(value.weight)
            for parameter in layout.parameters
        ]
        value = rules[step.op](value, *parameters)
    return value


def _middle_tap(name: str, layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Tensor:
    """Return the part of a weight, (out, in), that multiplies x at the output's position."""
    if isinstance(layer, nn.Linear):
        return weight
    padding = (0, 0) if layer.padding == "valid" else layer.padding
    taps = zip(layer.kernel_size, layer.dilation, strict=True)
    same = tuple(dilation * (size - 1) // 2 for size, dilation in taps)
    odd = all(size % 2 for size in layer.kernel_size)
    if layer.stride != (1, 1) or not odd or padding not in ("same", same):
        raise MergeRefused(f"{name} has no tap that reads x at the position of its output")
    height, width = layer.kernel_size
    return weight[:, :, height // 2, width // 2]
