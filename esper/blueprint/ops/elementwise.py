"""Ops that work element by element."""

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
    function,
    functional,
    mismatch,
    same_shape,
)

if TYPE_CHECKING:
    from torch import Tensor


def _activation(name: str, summary: str, module: str = "torch.nn.functional") -> OpSpec:
    prefix = module.replace("torch.nn", "nn")
    return OpSpec(
        name=name,
        summary=summary,
        shape=same_shape,
        flops=elements_of(same_shape),
        memory=elements_of(same_shape),
        run=function(module, name),
        source=Source(call=f"{prefix}.{name}({{0}})"),
    )


def broadcast_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    """Return the shape of two values together: dims are equal, or 1 on either side."""
    left, right = inputs
    if len(left) != len(right):
        raise mismatch(f"{left} and {right} have {len(left)} and {len(right)} dims, not as many")
    if any(1 not in pair and pair[0] != pair[1] for pair in zip(left, right, strict=True)):
        raise mismatch(f"{left} and {right} differ in a dim that is 1 in neither")
    return tuple(map(max, left, right))


def _combination(name: str, summary: str, operator: str) -> OpSpec:
    return OpSpec(
        name=name,
        summary=summary,
        fewest=2,
        most=2,
        shape=broadcast_shape,
        flops=elements_of(broadcast_shape),
        memory=elements_of(broadcast_shape),
        run=function("torch", name),
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
    _activation("relu", "The positive part.", module="torch"),
    _activation("gelu", "x times the normal distribution of x."),
    _activation("silu", "x times its sigmoid."),
    _activation("elu", "x where positive, exp(x) - 1 where not."),
    _activation("softplus", "log(1 + exp(x)): a smooth positive part."),
    _activation("hardswish", "x times its sigmoid, in straight lines."),
    _activation("sigmoid", "1 / (1 + exp(-x)): a gate from 0 to 1.", module="torch"),
    _activation("tanh", "The hyperbolic tangent, from -1 to 1.", module="torch"),
    OpSpec(
        name="softmax",
        summary="Positive shares of the last dimension that add up to one.",
        shape=same_shape,
        flops=elements_of(same_shape, each=3),
        memory=elements_of(same_shape),
        run=_softmax_run,
        source=Source(call="torch.softmax({0}, -1)"),
    ),
    _combination("add", "Sum of two values; dims are equal, or 1 on either side.", "+"),
    _combination("mul", "Product of two values; dims are equal, or 1 on either side.", "*"),
    OpSpec(
        name="dropout",
        summary="In training, zero with probability p and the rest scaled up; else the value.",
        arguments={"p": NumberArgument(default=0.1, least=0.0, below=1.0)},
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
