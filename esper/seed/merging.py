"""Merging a kernel into the layer of its site, where the sum of both is again such a layer.

A layer computes h = W x + b, a site with one kernel y = h + alpha * k(x, h). Where k is a chain of
affine maps of each position, y is affine in x as well, and the layer alone can compute it:

- k reads x, k = A x + c:  W' = W + alpha * A,              b' = b + alpha * c
- k reads h, k = A h + c:  W' = W + alpha * A W,            b' = b + alpha * (A b + c)

In a convolution, W has a matrix over channels for each tap, and b and c are the same at every
position. What reads h multiplies every matrix from the left, whatever stride and padding. What
reads x sees the position that the middle tap does, and joins the matrix of that tap: exact where
the layer steps by one and keeps the size, for the middle tap then never reads padding.

k starts from the map that it reads, x = 1 x + 0 or h = W x + b, and each op is applied to that
map as to a value: what comes out is added. Sums are in float64 and rounded once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from esper.kernel import Kernel, attribute_of
from esper.seed.seed import Seed, X
from esper.seed.site import Site


class MergeRefused(ValueError):
    """A kernel that must stay beside its layer; the message says why."""


class Affine(NamedTuple):
    """The map weight @ v + bias of what one position holds; (out, in) and (out,), float64."""

    weight: Tensor
    bias: Tensor


Rule = Callable[..., Affine]
"""What an op makes of an `Affine`, given its parameters, in float64, in the order of the op."""


def _multiplied(value: Affine, weight: Tensor, bias: Tensor | None = None) -> Affine:
    matrix = weight.flatten(1)
    product = matrix @ value.bias
    return Affine(matrix @ value.weight, product if bias is None else product + bias)


def _scaled(value: Affine, factor: Tensor) -> Affine:
    each = factor.flatten()
    return Affine(each[:, None] * value.weight, each * value.bias)


def _shifted(value: Affine, offset: Tensor) -> Affine:
    return Affine(value.weight, value.bias + offset.flatten())


_ANYWHERE: Final[Mapping[str, Rule]] = {"scale": _scaled, "bias": _shifted}

RULES: Final[Mapping[type[nn.Module], Mapping[str, Rule]]] = {
    nn.Linear: {**_ANYWHERE, "linear": _multiplied},
    # At a map, `linear` is over the width. The two ops beside `conv2d` stand in for it on a CPU.
    nn.Conv2d: {
        **_ANYWHERE,
        **dict.fromkeys(("conv2d", "conv2d_at_one", "conv2d_as_product"), _multiplied),
    },
}
"""The layers that kernels merge into, and the ops that are affine there, of one input each."""

EXACT: Final = (torch.float32, torch.float64)
"""Weights in which a rounded sum still computes what the two terms did."""


def merge(site: Site, slot: int, undo: ExitStack | None = None) -> Seed:
    """Have the layer of a site compute what it and a seed did; return the seed, taken out.

    The layer's parameters are written in place: optimizers and graphs hold on to them. `undo`
    gets what writes them back, bit for bit, and plants the seed again.

    Raises:
        MergeRefused: the layer cannot, or not exactly; nothing has changed.
    """
    seed = site.seed(slot)
    weight, bias = _own_parameters(site)
    if any(other.reads_h for at, other in site.seeds() if at.index != slot):
        raise MergeRefused(f"another seed of {site.name} reads h, which would change")
    rules = RULES[type(site.layer)]
    _check_steps(seed.kernel, rules)
    try:
        total = _sum(site, seed, rules, weight.device)
    except torch.OutOfMemoryError:
        # Not refused: one rank may have the memory that another has not, and all must do the same.
        total = _sum(site, seed, rules, torch.device("cpu"))
    if bias is None and total.bias.any():
        raise MergeRefused(f"the sum has a bias, and {site.name} has none")
    rounded = [total.weight.to(weight.dtype), total.bias.to(weight.dtype)]
    if not all(each.isfinite().all() for each in rounded):
        raise MergeRefused(f"the sum has values that are not finite in {weight.dtype}")
    own = [parameter for parameter in (weight, bias) if parameter is not None]
    if undo is not None:
        undo.callback(_written_back(own))
        undo.callback(site.undo_point())
    _write(own, rounded[: len(own)])
    return site.remove(slot)


def _written_back(parameters: Sequence[nn.Parameter]) -> Callable[[], None]:
    """Return what writes the present values again."""
    return partial(_write, parameters, [parameter.detach().clone() for parameter in parameters])


def _write(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.detach().copy_(value)


def _own_parameters(site: Site) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Return weight and bias of a site's layer, which are its own to be written to."""
    layer = site.layer
    if type(layer) not in RULES:
        raise MergeRefused(f"{site.name} is a {type(layer).__name__}, not an nn.Linear or Conv2d")
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    # Weight normalisation and the like make the weight anew before each call, from parameters.
    if type(weight) is not nn.Parameter or {"weight", "bias"} & layer.__dict__.keys():
        raise MergeRefused(f"the weight of {site.name} is made of other parameters")
    if site.tied:
        raise MergeRefused(f"{site.name} shares a parameter with another layer")
    own = [weight] if bias is None else [weight, bias]
    if not all(parameter.requires_grad for parameter in own):
        raise MergeRefused(f"{site.name} is frozen, in part at least")
    if any(parameter.dtype not in EXACT for parameter in own):
        raise MergeRefused(f"{site.name} is in {weight.dtype}, to which a sum is rounded too much")
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise MergeRefused(f"{site.name} has {layer.groups} groups")
    return weight, bias


def _check_steps(kernel: Kernel, rules: Mapping[str, Rule]) -> None:
    for step in kernel.plan.steps:
        over_several = any(step.args.get(name, 1) != 1 for name in ("kernel", "stride", "groups"))
        if step.op not in rules or over_several:
            raise MergeRefused(f"{step.op} ({step.node}) is no affine map of each position")


def _sum(site: Site, seed: Seed, rules: Mapping[str, Rule], device: torch.device) -> Affine:
    """Return the layer plus alpha times the kernel, with a weight of the shape of the layer's."""
    layer = site.layer
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.detach().to(device, torch.float64)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight)
    alpha = seed.alpha.to(weight)
    if seed.kernel.plan.steps[0].inputs[0] != X:
        added = _through(seed.kernel, Affine(weight.flatten(1), bias), rules)
        return Affine(
            weight + alpha * added.weight.reshape(weight.shape), bias + alpha * added.bias
        )
    features = weight.shape[1]
    eye = torch.eye(features, dtype=weight.dtype, device=weight.device)
    added = _through(seed.kernel, Affine(eye, weight.new_zeros(features)), rules)
    total = weight.clone()
    _middle(site.name, layer, total).add_(alpha * added.weight)
    return Affine(total, bias + alpha * added.bias)


def _through(kernel: Kernel, value: Affine, rules: Mapping[str, Rule]) -> Affine:
    """Return what a kernel makes of a map.

    Steps of one input each, of which one result is left unread, are a chain in their order.
    """
    for step, layout in zip(kernel.plan.steps, kernel.plan.layout, strict=True):
        captured_tensors = kernel.get_submodule(attribute_of(step.node))
        parameters = [
            captured_tensors.get_parameter(parameter.name).detach().to(value.weight)
            for parameter in layout.parameters
        ]
        value = rules[step.op](value, *parameters)
    return value


def _middle(name: str, layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Tensor:
    """Return the part of a weight, (out, in), that multiplies x at the position of the result."""
    if isinstance(layer, nn.Linear):
        return weight
    padding = (0, 0) if layer.padding == "valid" else layer.padding
    reaches = zip(layer.kernel_size, layer.dilation, strict=True)
    same = tuple(dilation * (size - 1) // 2 for size, dilation in reaches)
    odd = all(size % 2 for size in layer.kernel_size)
    if layer.stride != (1, 1) or not odd or padding not in ("same", same):
        raise MergeRefused(f"{name} has no tap that reads x at the position of its result")
    height, width = layer.kernel_size
    return weight[:, :, height // 2, width // 2]
