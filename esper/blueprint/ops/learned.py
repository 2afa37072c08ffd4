"""Learnable factors, offsets and constants."""

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
    lecun_uniform,
    no_cost,
    same_shape,
    torch_function,
)

if TYPE_CHECKING:
    from torch import Tensor


def _per_channel(shape: Shape) -> Shape:
    """Return the shape of one number per channel of (C, H, W), else per feature of the last dim."""
    return (shape[0], 1, 1) if len(shape) == FEATURE_MAP_RANK else shape[-1:]


def _per_channel_parameter(mean: float) -> ParameterRule:
    def parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
        return (ParameterSpec("weight", _per_channel(inputs[0]), mean=mean),)

    return parameters


def _holder(maker: str, shape: Shape) -> str:
    """Return the source of a layer with one tensor, `weight`, initialised by `torch.<maker>`."""
    sizes = ", ".join(map(str, shape))
    return f'nn.ParameterDict({{"weight": nn.Parameter(torch.{maker}({sizes}))}})'


def _channel_holder(maker: str) -> SourceRule:
    return lambda inputs, args: _holder(maker, _per_channel(inputs[0]))


def _learned_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    shape: Shape = args["shape"]
    return shape


def _learned_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    return (lecun_uniform("weight", args["shape"], args["shape"][-1]),)


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
        parameters=_per_channel_parameter(mean=1.0),
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=torch_function("torch", "mul"),
        source=Source(call='{0} * {layer}["weight"]', layer=_channel_holder("ones")),
        zero_output_at_zero_weights=True,
    ),
    OpSpec(
        name="bias",
        summary="One learnable offset per channel, or per feature of the last dimension.",
        shape=same_shape,
        parameters=_per_channel_parameter(mean=0.0),
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=torch_function("torch", "add"),
        source=Source(call='{0} + {layer}["weight"]', layer=_channel_holder("zeros")),
    ),
    OpSpec(
        name="learned",
        summary="A learnable tensor, the same for every sample; its input gives the batch size.",
        arguments={"shape": SizeListArgument(min_length=1, max_length=MAX_RANK)},
        shape=_learned_shape,
        parameters=_learned_parameters,
        memory=no_cost,
        run=_learned_run,
        source=Source(
            call=_learned_call, layer=lambda inputs, args: _holder("randn", args["shape"])
        ),
        zero_output_at_zero_weights=True,
    ),
)
