"""Internal ops that the optimiser substitutes: the result of a public op, computed another way.

Parameters keep the names, shapes and initial values of the replaced op. In exported source they
are in the same layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING

from esper.blueprint.arguments import FlagArgument, SizeArgument
from esper.blueprint.ops import convolution, pooling
from esper.blueprint.ops.spec import (
    FEATURE_MAP_RANK,
    MAX_RANK,
    Literals,
    OpSpec,
    ParameterSpec,
    Run,
    Shape,
    Source,
    dim_size,
    elements_of,
    functional,
    lecun_uniform,
    mismatch,
)

if TYPE_CHECKING:
    from torch import Tensor


def _pointwise_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise mismatch(f"takes (C, H, W), not {inputs[0]}")
    return (args["out"], *inputs[0][1:])


def _pixel_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if inputs[0][1:] != (1, 1):
        raise mismatch(f"takes (C, 1, 1), not {inputs[0]}")
    return args["out"], 1, 1


def _pointwise_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    channels, out = inputs[0][0], args["out"]
    weight = lecun_uniform("weight", (out, channels, 1, 1), channels)
    return (weight, ParameterSpec("bias", (out,))) if args["bias"] else (weight,)


def _pointwise_flops(inputs: Sequence[Shape], args: Literals) -> int:
    return 2 * prod(inputs[0]) * int(args["out"])


def _pointwise_layer(inputs: Sequence[Shape], args: Literals) -> str:
    bias = "" if args["bias"] else ", bias=False"
    return f"nn.Conv2d({inputs[0][0]}, {args['out']}, 1{bias})"


def _pixel_run(args: Literals) -> Run:
    linear, out = functional("linear"), args["out"]

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
        # Both views only drop or add dims of size 1, so they work in any memory layout.
        batch, channels = value.shape[:2]
        flat: Tensor = linear(value.view(batch, channels), weight.view(out, channels), bias)
        return flat.view(batch, out, 1, 1)

    return run


def _pixel_call(inputs: Sequence[Shape], args: Literals) -> str:
    channels, out = inputs[0][0], args["out"]
    value, weight = f"{{0}}.view(-1, {channels})", f"{{layer}}.weight.view({out}, {channels})"
    return f"nn.functional.linear({value}, {weight}, {{layer}}.bias).view(-1, {out}, 1, 1)"


def _pointwise_run(args: Literals) -> Run:
    out = args["out"]

    def with_bias(value: "Tensor", weight: "Tensor", bias: "Tensor") -> "Tensor":
        batch, _, height, width = value.shape
        matrix = weight.flatten(1).expand(batch, -1, -1)
        return bias[:, None].baddbmm(matrix, value.flatten(2)).view(batch, out, height, width)

    def without(value: "Tensor", weight: "Tensor") -> "Tensor":
        batch, _, height, width = value.shape
        matrix = weight.flatten(1).expand(batch, -1, -1)
        return matrix.bmm(value.flatten(2)).view(batch, out, height, width)

    return with_bias if args["bias"] else without


def _pointwise_call(inputs: Sequence[Shape], args: Literals) -> str:
    _, height, width = inputs[0]
    matrix = "{layer}.weight.flatten(1).expand({0}.shape[0], -1, -1)"
    product = f"{matrix}.bmm({{0}}.flatten(2))"
    if args["bias"]:
        product = f"torch.baddbmm({{layer}}.bias[:, None], {matrix}, {{0}}.flatten(2))"
    return f"{product}.view({{0}}.shape[0], {args['out']}, {height}, {width})"


def _glu_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    shape, dim = inputs[0], args["dim"]
    if dim_size(shape, dim) % 2:
        raise mismatch(f"dim {dim} of {shape} is odd and cannot be halved")
    return (*shape[:dim], shape[dim] // 2, *shape[dim + 1 :])


def _glu_run(args: Literals) -> Run:
    return partial(functional("glu"), dim=args["dim"] + 1)


def _glu_call(inputs: Sequence[Shape], args: Literals) -> str:
    return f"nn.functional.glu({{0}}, {args['dim'] + 1})"


def _row(family: ModuleType, name: str) -> OpSpec:
    rows: Sequence[OpSpec] = family.ROWS
    return next(row for row in rows if row.name == name)


def _by_channel(row: OpSpec, name: str, summary: str) -> OpSpec:
    """Return the row of a feature-map op that computes in channels_last memory format.

    The result is contiguous again, so later ops need no change.
    """

    def run(args: Literals) -> Run:
        compute, layout = row.run(args), import_module("torch").channels_last

        def relaid(value: "Tensor", *parameters: "Tensor") -> "Tensor":
            return compute(value.contiguous(memory_format=layout), *parameters).contiguous()

        return relaid

    def call(inputs: Sequence[Shape], args: Literals) -> str:
        template = row.source.template(inputs, args)
        relaid = template.replace("{0}", "{0}.contiguous(memory_format=torch.channels_last)")
        return f"{relaid}.contiguous()"

    def memory(inputs: Sequence[Shape], args: Literals) -> int:
        return prod(inputs[0]) + 2 * row.memory(inputs, args)

    source = Source(call=call, layer=row.source.layer)
    return replace(
        row, name=name, summary=summary, run=run, memory=memory, source=source, internal=True
    )


def _pointwise_row(
    name: str,
    summary: str,
    shape: Callable[[Sequence[Shape], Literals], Shape],
    run: Callable[[Literals], Run],
    call: Callable[[Sequence[Shape], Literals], str],
) -> OpSpec:
    """Return the row of an op that replaces a convolution of kernel 1."""
    return OpSpec(
        name=name,
        summary=summary,
        arguments={"out": SizeArgument(), "bias": FlagArgument(default=True)},
        shape=shape,
        parameters=_pointwise_parameters,
        flops=_pointwise_flops,
        memory=elements_of(shape),
        run=run,
        source=Source(call=call, layer=_pointwise_layer),
        zero_output_at_zero_weights=True,
        internal=True,
    )


ROWS: tuple[OpSpec, ...] = (
    _pointwise_row(
        "conv2d_at_one",
        "A convolution of kernel 1 on a single position, as a linear map.",
        _pixel_shape,
        _pixel_run,
        _pixel_call,
    ),
    _pointwise_row(
        "conv2d_as_product",
        "A convolution of kernel 1 as a matrix product for each sample.",
        _pointwise_shape,
        _pointwise_run,
        _pointwise_call,
    ),
    OpSpec(
        name="glu",
        summary="The first half of a dim times the sigmoid of the second.",
        arguments={"dim": SizeArgument(minimum=0, maximum=MAX_RANK - 1)},
        shape=_glu_shape,
        flops=elements_of(_glu_shape, per_element=2),
        memory=elements_of(_glu_shape),
        run=_glu_run,
        source=Source(call=_glu_call),
        internal=True,
    ),
    _by_channel(
        _row(convolution, "conv2d"),
        "conv2d_by_channel",
        "A convolution in channels_last memory format.",
    ),
    _by_channel(
        _row(pooling, "max_pool"),
        "max_pool_by_channel",
        "The largest value of each window, in channels_last memory format.",
    ),
)
