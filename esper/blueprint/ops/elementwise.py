"""Elementwise ops."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from esper.blueprint.arguments import NumberArgument
from esper.blueprint.ops.spec import (
    Literals,
    OpSpec,
    Run,
    Shape,
    Source,
    elements_of,
    functional,
    mismatch,
    same_shape,
    torch_function,
)

if TYPE_CHECKING:
    from torch import Tensor


def _activation_row(name: str, summary: str, module: str = "torch.nn.functional") -> OpSpec:
    prefix = module.replace("torch.nn", "nn")
    return OpSpec(
        name=name,
        summary=summary,
        shape=same_shape,
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=torch_function(module, name),
        source=Source(call=f"{prefix}.{name}({{0}})"),
    )


def broadcast_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    """Return the broadcast shape of two values: dims are equal, or 1 on either side."""
    left, right = inputs
    if len(left) != len(right):
        raise mismatch(
            f"{left} and {right} have {len(left)} and {len(right)} dims; the counts must be equal"
        )
    if any(1 not in pair and pair[0] != pair[1] for pair in zip(left, right, strict=True)):
        raise mismatch(f"{left} and {right} differ in a dim that is 1 in neither")
    return tuple(map(max, left, right))


def _binary_row(name: str, summary: str, operator: str) -> OpSpec:
    return OpSpec(
        name=name,
        summary=summary,
        min_inputs=2,
        max_inputs=2,
        shape=broadcast_shape,
        flops=elements_of(broadcast_shape),
        memory=elements_of(broadcast_shape),
        run=torch_function("torch", name),
        source=Source(call=f"{{0}} {operator} {{1}}"),
    )


def _softmax_run(args: Literals) -> Run:
    softmax: Run = import_module("torch").softmax
    return lambda value: softmax(value, -1)


def _dropout_run(args: Literals) -> Run:
    return lambda value: value


def _dropout_run_training(args: Literals) -> Run:
    dropout, p = functional("dropout"), args["p"]

    def run(value: "Tensor") -> "Tensor":
        result: Tensor = dropout(value, p, True)
        return result

    return run


ROWS = (
    _activation_row("relu", "The positive part.", module="torch"),
    _activation_row("gelu", "x times the normal distribution function of x."),
    _activation_row("silu", "x times its sigmoid."),
    _activation_row("elu", "x where positive, exp(x) - 1 where not."),
    _activation_row("softplus", "log(1 + exp(x)): a smooth positive part."),
    _activation_row("hardswish", "x times a piecewise linear sigmoid."),
    _activation_row("sigmoid", "1 / (1 + exp(-x)): a gate from 0 to 1.", module="torch"),
    _activation_row("tanh", "The hyperbolic tangent, from -1 to 1.", module="torch"),
    OpSpec(
        name="softmax",
        summary="Softmax along the last dimension.",
        shape=same_shape,
        flops=elements_of(same_shape, per_element=3),
        memory=elements_of(same_shape),
        run=_softmax_run,
        source=Source(call="torch.softmax({0}, -1)"),
    ),
    _binary_row("add", "Sum of two values; dims are equal, or 1 on either side.", "+"),
    _binary_row("mul", "Product of two values; dims are equal, or 1 on either side.", "*"),
    OpSpec(
        name="dropout",
        summary="In training, zeroes with probability p and rescales the rest; else the value.",
        arguments={"p": NumberArgument(default=0.1, minimum=0.0, exclusive_maximum=1.0)},
        shape=same_shape,
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=_dropout_run,
        run_training=_dropout_run_training,
        source=Source(
            call=lambda inputs, args: f"nn.functional.dropout({{0}}, {args['p']}, self.training)"
        ),
    ),
)
