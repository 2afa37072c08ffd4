"""Every op: the shape it promises is the shape it gives, in each way that Esper runs it."""

from typing import Any

import pytest
import torch
from torch import nn

from esper.blueprint.ops import OPS, Shape
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

CONV = {"out": 6, "kernel": 3, "groups": 1, "dilation": 1, "bias": True}
MAP, VECTOR, SEQUENCE = (4, 5, 3), (6,), (3, 6)

CASES: list[tuple[str, list[Shape], dict[str, Any], Shape]] = [
    ("conv2d", [MAP], CONV, (6, 5, 3)),
    ("conv2d", [MAP], CONV | {"kernel": 1, "bias": False}, (6, 5, 3)),
    ("conv2d", [MAP], CONV | {"kernel": 7, "dilation": 3, "groups": 2}, (6, 5, 3)),
    ("linear", [VECTOR], {"out": 9, "bias": True}, (9,)),
    ("linear", [SEQUENCE], {"out": 9, "bias": False}, (3, 9)),
    ("relu", [MAP], {}, MAP),
    ("gelu", [MAP], {}, MAP),
    ("silu", [VECTOR], {}, VECTOR),
    ("sigmoid", [SEQUENCE], {}, SEQUENCE),
    ("tanh", [VECTOR], {}, VECTOR),
    ("add", [VECTOR, VECTOR], {}, VECTOR),
    ("add", [MAP, (4, 1, 1)], {}, MAP),
    ("mul", [SEQUENCE, SEQUENCE], {}, SEQUENCE),
    ("mul", [(4, 1, 1), MAP], {}, MAP),
    ("group_norm", [MAP], {"groups": 2}, MAP),
    ("layer_norm", [VECTOR], {}, VECTOR),
    ("layer_norm", [SEQUENCE], {}, SEQUENCE),
    ("global_avg_pool", [MAP], {}, (4, 1, 1)),
    ("scale", [MAP], {}, MAP),
    ("scale", [SEQUENCE], {}, SEQUENCE),
]

MISFITS: list[tuple[str, list[Shape], dict[str, Any]]] = [
    ("conv2d", [VECTOR], CONV),
    ("conv2d", [MAP], CONV | {"groups": 3}),
    ("conv2d", [MAP], CONV | {"groups": 4}),
    ("linear", [MAP], {"out": 9, "bias": True}),
    ("add", [VECTOR, (7,)], {}),
    ("add", [(3, 1), SEQUENCE], {}),
    ("mul", [MAP, (5, 1, 1)], {}),
    ("mul", [MAP, (4, 5, 1)], {}),
    ("group_norm", [MAP], {"groups": 3}),
    ("group_norm", [VECTOR], {"groups": 1}),
    ("group_norm", [(4, 1, 1)], {"groups": 4}),
    ("layer_norm", [MAP], {}),
    ("layer_norm", [(1,)], {}),
    ("global_avg_pool", [SEQUENCE], {}),
]


def test_every_op_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(OPS)


@pytest.mark.parametrize(("name", "shapes", "args", "expected"), CASES)
def test_the_promised_shape_is_the_real_one(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    weights = [torch.randn(parameter.shape) for parameter in spec.parameters(shapes, args)]
    result = spec.run(args)(*(torch.randn(2, *shape) for shape in shapes), *weights)
    assert spec.shape(shapes, args) == expected == tuple(result.shape[1:])


@pytest.mark.parametrize(("name", "shapes", "args", "expected"), CASES)
def test_the_source_of_an_op_computes_what_the_op_does(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    inputs = [torch.randn(2, *shape) for shape in shapes]
    weights = {spec.name: torch.randn(spec.shape) for spec in spec.parameters(shapes, args)}
    names = {"torch": torch, "nn": nn, "a": inputs[0], "b": inputs[-1]}
    if spec.source.layer is not None:
        layer = eval(spec.source.layer(shapes[0], args), names)
        layer.load_state_dict(weights)
        names["layer"] = layer
    written = eval(spec.source.call.format("a", "b", layer="layer"), names)
    assert torch.equal(written, spec.run(args)(*inputs, *weights.values()))


@pytest.mark.parametrize(("name", "shapes", "args"), MISFITS)
def test_shapes_that_do_not_fit_are_refused(
    name: str, shapes: list[Shape], args: dict[str, Any]
) -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        OPS[name].shape(shapes, args)
    assert rejection.value.code is RejectionCode.SHAPE_MISMATCH


@pytest.mark.parametrize(("name", "shapes", "args", "expected"), CASES)
def test_an_op_is_silent_at_zero_exactly_if_it_says_so(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    parameters = spec.parameters(shapes, args)
    zeros = [torch.zeros(parameter.shape) for parameter in parameters]
    result = spec.run(args)(*(torch.randn(2, *shape) for shape in shapes), *zeros)
    # A norm with zero factors is silent too, but it must not end a kernel: see TRAPS.
    can_be_silent = bool(parameters) and not result.any() and "norm" not in name
    assert spec.silent_at_zero == can_be_silent
