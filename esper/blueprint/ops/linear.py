"""Matrix products: of a value with weights, and of two values."""

from collections.abc import Sequence
from math import prod

from esper.blueprint.arguments import FlagArgument, SizeArgument
from esper.blueprint.ops.spec import (
    Literals,
    OpSpec,
    ParameterSpec,
    Shape,
    Source,
    elements_of,
    lecun_uniform,
    mismatch,
    torch_function,
)

MATRIX_RANK = 2


def _linear_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    return (*inputs[0][:-1], args["out"])


def _linear_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    features = inputs[0][-1]
    weight = lecun_uniform("weight", (args["out"], features), features)
    return (weight, ParameterSpec("bias", (args["out"],))) if args["bias"] else (weight,)


def _linear_flops(inputs: Sequence[Shape], args: Literals) -> int:
    return 2 * prod(inputs[0]) * int(args["out"])


def _linear_layer(inputs: Sequence[Shape], args: Literals) -> str:
    return f"nn.Linear({inputs[0][-1]}, {args['out']}{'' if args['bias'] else ', bias=False'})"


def _matmul_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    left, right = inputs
    if not len(left) == len(right) >= MATRIX_RANK or left[:-2] != right[:-2]:
        raise mismatch(f"takes two values with equal dims before the last two, not {left}, {right}")
    if left[-1] != right[-2]:
        raise mismatch(f"{left} has {left[-1]} columns but {right} has {right[-2]} rows")
    return (*left[:-1], right[-1])


def _matmul_flops(inputs: Sequence[Shape], args: Literals) -> int:
    return 2 * inputs[0][-1] * prod(_matmul_shape(inputs, args))


ROWS = (
    OpSpec(
        name="linear",
        summary="Affine map of the last dimension.",
        arguments={"out": SizeArgument(), "bias": FlagArgument(default=True)},
        shape=_linear_shape,
        parameters=_linear_parameters,
        flops=_linear_flops,
        memory=elements_of(_linear_shape),
        run=torch_function("torch.nn.functional", "linear"),
        source=Source(call="{layer}({0})", layer=_linear_layer),
        zero_output_at_zero_weights=True,
    ),
    OpSpec(
        name="matmul",
        summary="Matrix product over the last two dims; the dims before them are equal.",
        min_inputs=2,
        max_inputs=2,
        shape=_matmul_shape,
        flops=_matmul_flops,
        memory=elements_of(_matmul_shape),
        run=torch_function("torch", "matmul"),
        source=Source(call="{0} @ {1}"),
    ),
)
