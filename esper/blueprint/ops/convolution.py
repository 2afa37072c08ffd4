"""Convolutions over positions, and upsampling to undo a stride."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from esper.blueprint.arguments import ChoiceArgument, FlagArgument, SizeArgument, SizeListArgument
from esper.blueprint.ops.spec import (
    FEATURE_MAP_RANK,
    SEQUENCE_RANK,
    Literals,
    OpSpec,
    ParameterSpec,
    Run,
    Shape,
    Source,
    elements_of,
    functional,
    lecun_uniform,
    mismatch,
)

if TYPE_CHECKING:
    from torch import Tensor


def strided_size(size: int, stride: int) -> int:
    """Return the positions that a stride keeps: ceil(size / stride)."""
    return -(-size // stride)


def _check_groups(channels: int, args: Literals) -> None:
    if channels % args["groups"] or args["out"] % args["groups"]:
        raise mismatch(
            f"groups {args['groups']} must divide the {channels} input channels "
            f"and the {args['out']} output channels"
        )


def _conv2d_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise mismatch(f"takes (C, H, W), not {inputs[0]}")
    channels, height, width = inputs[0]
    _check_groups(channels, args)
    return args["out"], strided_size(height, args["stride"]), strided_size(width, args["stride"])


def _conv2d_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    channels, kernel = inputs[0][0] // args["groups"], args["kernel"]
    weight = lecun_uniform("weight", (args["out"], channels, kernel, kernel), channels * kernel**2)
    return (weight, ParameterSpec("bias", (args["out"],))) if args["bias"] else (weight,)


def _conv2d_flops(inputs: Sequence[Shape], args: Literals) -> int:
    taps = inputs[0][0] // args["groups"] * args["kernel"] ** 2
    return 2 * int(taps) * prod(_conv2d_shape(inputs, args))


def _reach(args: Literals) -> int:
    """Return the distance between the first and the last position that one output reads."""
    return int(args["dilation"]) * (int(args["kernel"]) - 1)


def _padding(args: Literals) -> int:
    return _reach(args) // 2


def _conv2d_run(args: Literals) -> Run:
    conv2d = functional("conv2d")
    stride, padding, dilation, groups = (
        args["stride"],
        _padding(args),
        args["dilation"],
        args["groups"],
    )

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
        result: Tensor = conv2d(value, weight, bias, stride, padding, dilation, groups)
        return result

    return run


def _conv2d_layer(inputs: Sequence[Shape], args: Literals) -> str:
    return _conv_layer("Conv2d", inputs[0][0], _padding(args), args)


def _conv_layer(layer: str, channels: int, padding: int, args: Literals) -> str:
    extras = (
        ("stride", args["stride"], 1),
        ("padding", padding, 0),
        ("dilation", args["dilation"], 1),
        ("groups", args["groups"], 1),
        ("bias", args["bias"], True),
    )
    options = "".join(f", {name}={value}" for name, value, default in extras if value != default)
    return f"nn.{layer}({channels}, {args['out']}, {args['kernel']}{options})"


def _conv1d_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != SEQUENCE_RANK:
        raise mismatch(f"takes (T, D), not {inputs[0]}")
    if not (args["causal"] or args["kernel"] % 2):
        raise mismatch(f"kernel {args['kernel']} has no centre: use an odd kernel or causal")
    length, features = inputs[0]
    _check_groups(features, args)
    return strided_size(length, args["stride"]), args["out"]


def _conv1d_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    features, kernel = inputs[0][1] // args["groups"], args["kernel"]
    weight = lecun_uniform("weight", (args["out"], features, kernel), features * kernel)
    return (weight, ParameterSpec("bias", (args["out"],))) if args["bias"] else (weight,)


def _conv1d_flops(inputs: Sequence[Shape], args: Literals) -> int:
    taps = inputs[0][1] // args["groups"] * args["kernel"]
    return 2 * int(taps) * prod(_conv1d_shape(inputs, args))


def _conv1d_memory(inputs: Sequence[Shape], args: Literals) -> int:
    length, features = inputs[0]
    padded = (length + _reach(args)) * features if args["causal"] and _reach(args) else 0
    return padded + prod(_conv1d_shape(inputs, args))


def _conv1d_run(args: Literals) -> Run:
    conv1d, pad = functional("conv1d"), functional("pad")
    stride, dilation, groups = args["stride"], args["dilation"], args["groups"]
    before = _reach(args) if args["causal"] else 0
    padding = 0 if args["causal"] else _padding(args)

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
        steps = pad(value, (0, 0, before, 0)) if before else value
        result: Tensor = conv1d(
            steps.transpose(1, 2), weight, bias, stride, padding, dilation, groups
        )
        return result.transpose(1, 2)

    return run


def _conv1d_layer(inputs: Sequence[Shape], args: Literals) -> str:
    padding = 0 if args["causal"] else _padding(args)
    return _conv_layer("Conv1d", inputs[0][1], padding, args)


def _conv1d_call(inputs: Sequence[Shape], args: Literals) -> str:
    before = _reach(args) if args["causal"] else 0
    value = f"nn.functional.pad({{0}}, (0, 0, {before}, 0))" if before else "{0}"
    return f"{{layer}}({value}.transpose(1, 2)).transpose(1, 2)"


def _upsample_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    match inputs[0], args["size"]:
        case (channels, _, _), (height, width):
            return channels, height, width
        case (_, features), (length,):
            return length, features
    raise mismatch(
        f"resizes (C, H, W) to size [H, W], or (T, D) to size [T], "
        f"not {inputs[0]} to {list(args['size'])}"
    )


def _upsample_run(args: Literals) -> Run:
    interpolate: Any = functional("interpolate")
    size = args["size"]

    def feature_map(value: "Tensor") -> "Tensor":
        result: Tensor = interpolate(value, size, mode="nearest")
        return result

    def sequence(value: "Tensor") -> "Tensor":
        result: Tensor = interpolate(value.transpose(1, 2), size, mode="nearest")
        return result.transpose(1, 2)

    return sequence if len(size) == 1 else feature_map


def _upsample_call(inputs: Sequence[Shape], args: Literals) -> str:
    (first, *rest) = args["size"]
    if rest:
        return f"nn.functional.interpolate({{0}}, ({first}, {rest[0]}))"
    return f"nn.functional.interpolate({{0}}.transpose(1, 2), {first}).transpose(1, 2)"


ROWS = (
    OpSpec(
        name="conv2d",
        summary="Convolution over height and width, padded so that stride 1 keeps both.",
        arguments={
            "out": SizeArgument(),
            "kernel": ChoiceArgument((1, 3, 5, 7), default=3),
            "groups": SizeArgument(default=1),
            "dilation": SizeArgument(default=1, maximum=16),
            "stride": ChoiceArgument((1, 2, 4), default=1),
            "bias": FlagArgument(default=True),
        },
        shape=_conv2d_shape,
        parameters=_conv2d_parameters,
        flops=_conv2d_flops,
        memory=elements_of(_conv2d_shape),
        run=_conv2d_run,
        source=Source(call="{layer}({0})", layer=_conv2d_layer),
        zero_output_at_zero_weights=True,
    ),
    OpSpec(
        name="conv1d",
        summary="Convolution over positions; stride 1 keeps the length, causal looks back only.",
        arguments={
            "out": SizeArgument(),
            "kernel": SizeArgument(default=3, maximum=63),
            "groups": SizeArgument(default=1),
            "dilation": SizeArgument(default=1, maximum=256),
            "stride": SizeArgument(default=1, maximum=16),
            "causal": FlagArgument(default=False),
            "bias": FlagArgument(default=True),
        },
        shape=_conv1d_shape,
        parameters=_conv1d_parameters,
        flops=_conv1d_flops,
        memory=_conv1d_memory,
        run=_conv1d_run,
        source=Source(call=_conv1d_call, layer=_conv1d_layer),
        zero_output_at_zero_weights=True,
    ),
    OpSpec(
        name="upsample",
        summary="Nearest-neighbour resampling to exactly the given size; undoes a stride.",
        arguments={"size": SizeListArgument(min_length=1, max_length=2)},
        shape=_upsample_shape,
        memory=elements_of(_upsample_shape),
        run=_upsample_run,
        source=Source(call=_upsample_call),
    ),
)
