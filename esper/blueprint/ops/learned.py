"""Learnable tensors that are no map: factors, offsets, constants."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from esper.blueprint.arguments import SizeListArgument
from esper.blueprint.ops.spec import (
    FEATURE_MAP_RANK,
    MAX_RANK,
    Literals,
    OpSpec,
    ParameterRule,
    ParameterSpec,
    Run,
    Shape,
    Source,
    SourceRule,
    elements_of,
    function,
    nothing,
    same_shape,
    uniform,
)

if TYPE_CHECKING:
    from torch import Tensor


def _per_channel(shape: Shape) -> Shape:
    """Return the shape of one number per channel of a (C, H, W), else of the last dim."""
    return (shape[0], 1, 1) if len(shape) == FEATURE_MAP_RANK else shape[-1:]


def _one_each(centre: float) -> ParameterRule:
    def parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
        return (ParameterSpec("weight", _per_channel(inputs[0]), centre=centre),)

    return parameters


def _held(maker: str, shape: Shape) -> str:
    """Return the layer that holds one tensor, `weight`, which starts as `torch.<maker>`."""
    sizes = ", ".join(map(str, shape))
    return f'nn.ParameterDict({{"weight": nn.Parameter(torch.{maker}({sizes}))}})'


def _held_per_channel(maker: str) -> SourceRule:
    return lambda inputs, args: _held(maker, _per_channel(inputs[0]))


def _learned_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    shape: Shape = args["shape"]
    return shape


def _learned_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    return (uniform("weight", args["shape"], args["shape"][-1]),)


def _learned_run(args: Literals) -> Run:
    def run(like: "Tensor", weight: "Tensor") -> "Tensor":
        return weight.expand(like.shape[0], *weight.shape)

    return run


def _learned_call(inputs: Sequence[Shape], args: Literals) -> str:
    return f'{{layer}}["weight"].expand({{0}}.shape[0], {", ".join(map(str, args["shape"]))})'


ROWS = (
    OpSpec(
        name="scale",
        summary="One learnable factor per channel, or per feature of the last dimension.",
        shape=same_shape,
        parameters=_one_each(centre=1.0),
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=function("torch", "mul"),
        source=Source(call='{0} * {layer}["weight"]', layer=_held_per_channel("ones")),
        zero_output_at_zero_weights=True,
    ),
    OpSpec(
        name="bias",
        summary="One learnable offset per channel, or per feature of the last dimension.",
        shape=same_shape,
        parameters=_one_each(centre=0.0),
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=function("torch", "add"),
        source=Source(call='{0} + {layer}["weight"]', layer=_held_per_channel("zeros")),
    ),
    OpSpec(
        name="learned",
        summary="A learnable tensor, the same for every sample of the batch of its input.",
        arguments={"shape": SizeListArgument(fewest=1, longest=MAX_RANK)},
        shape=_learned_shape,
        parameters=_learned_parameters,
        memory=nothing,
        run=_learned_run,
        source=Source(call=_learned_call, layer=lambda inputs, args: _held("randn", args["shape"])),
        zero_output_at_zero_weights=True,
    ),
)
