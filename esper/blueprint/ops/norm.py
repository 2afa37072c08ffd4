"""Normalisation within a sample."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from esper.blueprint.arguments import SizeArgument
from esper.blueprint.ops.spec import (
    FEATURE_MAP_RANK,
    NORM_EPSILON,
    Literals,
    OpSpec,
    ParameterRule,
    ParameterSpec,
    Run,
    Shape,
    Source,
    elements_of,
    functional,
    mismatch,
    same_shape,
)

if TYPE_CHECKING:
    from torch import Tensor

FLOPS_PER_ELEMENT = 7
"""Mean, difference, square, sum, division, factor, offset."""


def _group_norm_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    channels, groups = inputs[0][0], args["groups"]
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise mismatch(f"takes (C, H, W), not {inputs[0]}; use layer_norm")
    if channels % groups:
        raise mismatch(f"groups {groups} must divide the {channels} channels")
    if prod(inputs[0]) == groups:
        raise mismatch(f"has groups of one element in {inputs[0]}: the result would be constant")
    return inputs[0]


def _group_norm_run(args: Literals) -> Run:
    group_norm, groups = functional("group_norm"), args["groups"]

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor") -> "Tensor":
        result: Tensor = group_norm(value, groups, weight, bias, NORM_EPSILON)
        return result

    return run


def _row_norm_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if inputs[0][-1] == 1:
        raise mismatch(f"has rows of one element in {inputs[0]}: the result would be constant")
    return inputs[0]


def _layer_norm_run(args: Literals) -> Run:
    layer_norm = functional("layer_norm")

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor") -> "Tensor":
        result: Tensor = layer_norm(value, weight.shape, weight, bias, NORM_EPSILON)
        return result

    return run


def _rms_norm_run(args: Literals) -> Run:
    rms_norm = functional("rms_norm")

    def run(value: "Tensor", weight: "Tensor") -> "Tensor":
        result: Tensor = rms_norm(value, weight.shape, weight, NORM_EPSILON)
        return result

    return run


def _affine(dimension: int, offset: bool = True) -> ParameterRule:
    """Return the rule of a norm's parameters: factors of 1 and offsets of 0 along a dimension."""

    def parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
        features = (inputs[0][dimension],)
        weight = ParameterSpec("weight", features, mean=1.0)
        return (weight, ParameterSpec("bias", features)) if offset else (weight,)

    return parameters


ROWS = (
    OpSpec(
        name="group_norm",
        summary="Zero mean and unit variance within each group of channels of a sample.",
        arguments={"groups": SizeArgument(default=1)},
        shape=_group_norm_shape,
        parameters=_affine(0),
        flops=elements_of(same_shape, per_element=FLOPS_PER_ELEMENT),
        memory=elements_of(same_shape),
        run=_group_norm_run,
        source=Source(
            call="{layer}({0})",
            layer=lambda inputs, args: f"nn.GroupNorm({args['groups']}, {inputs[0][0]})",
        ),
    ),
    OpSpec(
        name="layer_norm",
        summary="Zero mean and unit variance along the last dimension.",
        shape=_row_norm_shape,
        parameters=_affine(-1),
        flops=elements_of(same_shape, per_element=FLOPS_PER_ELEMENT),
        memory=elements_of(same_shape),
        run=_layer_norm_run,
        source=Source(
            call="{layer}({0})", layer=lambda inputs, args: f"nn.LayerNorm({inputs[0][-1]})"
        ),
    ),
    OpSpec(
        name="rms_norm",
        summary="Unit mean square along the last dimension.",
        shape=_row_norm_shape,
        parameters=_affine(-1, offset=False),
        flops=elements_of(same_shape, per_element=4),
        memory=elements_of(same_shape),
        run=_rms_norm_run,
        source=Source(
            call="{layer}({0})",
            layer=lambda inputs, args: f"nn.RMSNorm({inputs[0][-1]}, eps={NORM_EPSILON})",
        ),
    ),
)
