"""The ops: one table, one row each; everything Esper knows about an op stands in its row.

To add an op, add a row to `OPS` and its case to `tests/blueprint/test_ops.py`. Nothing else in
Esper names an op. torch is imported by the `run` of a row, not by this module, so that
blueprints can be read and checked where torch is not wanted.

Shapes are those of one sample: (D,), (T, D) or (C, H, W), without the batch dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

from esper.blueprint.arguments import Argument, Choice, Flag, Literal, Size
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Literals = Mapping[str, Literal]
Run = Callable[..., "Tensor"]

FEATURE_MAP_RANK: Final = 3
NORM_EPSILON: Final = 1e-5


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A learnable tensor of a node, which starts uniform within `centre` ± `bound`."""

    name: str
    shape: Shape
    centre: float = 0.0
    bound: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """An op as a person would write it in PyTorch.

    `call` is an expression over `{0}`, `{1}` (the inputs) and `{layer}`; `layer` writes the
    constructor of the submodule that holds the op's parameters, named as in its `ParameterSpec`s.
    """

    call: str
    layer: Callable[[Shape, Literals], str] | None = None


def _no_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One op.

    `shape` gives the shape of the result or refuses the inputs; `parameters` what it learns;
    `run` a function of the inputs and then the parameters, in the order of `parameters`.
    `silent_at_zero` says that the result is zero where all parameters are: such an op can end a
    kernel that is an exact no-op at birth and still receives gradient.
    """

    name: str
    summary: str
    arity: int
    shape: Callable[[Sequence[Shape], Literals], Shape]
    run: Callable[[Literals], Run]
    source: Source
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    parameters: Callable[[Sequence[Shape], Literals], tuple[ParameterSpec, ...]] = _no_parameters
    silent_at_zero: bool = False


def op_named(name: str) -> OpSpec:
    """Return the row of an op.

    Raises:
        BlueprintRejected: there is no such op; the message lists those there are.
    """
    if (spec := OPS.get(name)) is None:
        raise BlueprintRejected(
            RejectionCode.UNKNOWN_OP, f"there is no op {name!r}; there are {', '.join(sorted(OPS))}"
        )
    return spec


def _mismatch(message: str) -> BlueprintRejected:
    return BlueprintRejected(RejectionCode.SHAPE_MISMATCH, message)


def _uniform(name: str, shape: Shape, fan_in: int) -> ParameterSpec:
    """Start a weight so that the variance of its input is kept (LeCun et al. 1998)."""
    return ParameterSpec(name, shape, bound=sqrt(3 / fan_in))


# -- elementwise --------------------------------------------------------------------------------


def _same_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    return inputs[0]


def _broadcast_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    left, right = inputs
    if left == right:
        return left
    per_channel = {(*left[:1], 1, 1), (*right[:1], 1, 1)}
    if len(left) == len(right) == FEATURE_MAP_RANK and left[0] == right[0]:
        if left in per_channel:
            return right
        if right in per_channel:
            return left
    raise _mismatch(f"{left} and {right} are neither equal nor (C, H, W) with (C, 1, 1)")


def _from(module: str, name: str) -> Callable[[Literals], Run]:
    """Return the `run` of an op that is a function of torch without arguments."""

    def run(args: Literals) -> Run:
        function: Run = getattr(import_module(module), name)
        return function

    return run


def _activation(name: str, summary: str, module: str = "torch") -> OpSpec:
    prefix = module.replace("torch.nn", "nn")
    return OpSpec(
        name=name,
        summary=summary,
        arity=1,
        shape=_same_shape,
        run=_from(module, name),
        source=Source(call=f"{prefix}.{name}({{0}})"),
    )


# -- conv2d -------------------------------------------------------------------------------------


def _conv2d_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise _mismatch(f"takes (C, H, W), not {inputs[0]}")
    channels, height, width = inputs[0]
    if channels % args["groups"] or args["out"] % args["groups"]:
        raise _mismatch(
            f"groups {args['groups']} must divide the {channels} channels that come in "
            f"and the {args['out']} that go out"
        )
    return args["out"], height, width


def _conv2d_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    channels, kernel = inputs[0][0] // args["groups"], args["kernel"]
    weight = _uniform("weight", (args["out"], channels, kernel, kernel), channels * kernel**2)
    return (weight, ParameterSpec("bias", (args["out"],))) if args["bias"] else (weight,)


def _conv2d_padding(args: Literals) -> int:
    return int(args["dilation"]) * (int(args["kernel"]) - 1) // 2


def _conv2d_run(args: Literals) -> Run:
    conv2d: Any = import_module("torch.nn.functional").conv2d
    padding, dilation, groups = _conv2d_padding(args), args["dilation"], args["groups"]

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
        result: Tensor = conv2d(value, weight, bias, 1, padding, dilation, groups)
        return result

    return run


def _conv2d_layer(shape: Shape, args: Literals) -> str:
    extras = (
        ("padding", _conv2d_padding(args), 0),
        ("dilation", args["dilation"], 1),
        ("groups", args["groups"], 1),
        ("bias", args["bias"], True),
    )
    written = "".join(f", {name}={value}" for name, value, usual in extras if value != usual)
    return f"nn.Conv2d({shape[0]}, {args['out']}, {args['kernel']}{written})"


# -- linear -------------------------------------------------------------------------------------


def _linear_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) == FEATURE_MAP_RANK:
        raise _mismatch(f"takes (D,) or (T, D), not {inputs[0]}; use conv2d with kernel 1")
    return (*inputs[0][:-1], args["out"])


def _linear_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    features = inputs[0][-1]
    weight = _uniform("weight", (args["out"], features), features)
    return (weight, ParameterSpec("bias", (args["out"],))) if args["bias"] else (weight,)


def _linear_layer(shape: Shape, args: Literals) -> str:
    return f"nn.Linear({shape[-1]}, {args['out']}{'' if args['bias'] else ', bias=False'})"


# -- normalisation ------------------------------------------------------------------------------


def _group_norm_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    channels, groups = inputs[0][0], args["groups"]
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise _mismatch(f"takes (C, H, W), not {inputs[0]}; use layer_norm")
    if channels % groups:
        raise _mismatch(f"groups {groups} must divide the {channels} channels")
    if channels // groups * inputs[0][1] * inputs[0][2] == 1:
        raise _mismatch(f"normalises groups of one element in {inputs[0]}, which leaves nothing")
    return inputs[0]


def _group_norm_run(args: Literals) -> Run:
    group_norm: Any = import_module("torch.nn.functional").group_norm
    groups = args["groups"]

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor") -> "Tensor":
        result: Tensor = group_norm(value, groups, weight, bias, NORM_EPSILON)
        return result

    return run


def _layer_norm_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) == FEATURE_MAP_RANK:
        raise _mismatch(f"takes (D,) or (T, D), not {inputs[0]}; use group_norm")
    if inputs[0][-1] == 1:
        raise _mismatch(f"normalises rows of one element in {inputs[0]}, which leaves nothing")
    return inputs[0]


def _layer_norm_run(args: Literals) -> Run:
    layer_norm: Any = import_module("torch.nn.functional").layer_norm

    def run(value: "Tensor", weight: "Tensor", bias: "Tensor") -> "Tensor":
        result: Tensor = layer_norm(value, weight.shape, weight, bias, NORM_EPSILON)
        return result

    return run


def _affine(dimension: int) -> Callable[[Sequence[Shape], Literals], tuple[ParameterSpec, ...]]:
    """Return the parameters of a norm: factors of one and offsets of zero along a dimension."""

    def parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
        features = (inputs[0][dimension],)
        return ParameterSpec("weight", features, centre=1.0), ParameterSpec("bias", features)

    return parameters


# -- pooling and scale --------------------------------------------------------------------------


def _pool_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise _mismatch(f"takes (C, H, W), not {inputs[0]}")
    return inputs[0][0], 1, 1


def _pool_run(args: Literals) -> Run:
    mean: Any = import_module("torch").mean

    def run(value: "Tensor") -> "Tensor":
        result: Tensor = mean(value, dim=(-2, -1), keepdim=True)
        return result

    return run


def _scale_weight_shape(shape: Shape) -> Shape:
    return (shape[0], 1, 1) if len(shape) == FEATURE_MAP_RANK else shape[-1:]


def _scale_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    return (ParameterSpec("weight", _scale_weight_shape(inputs[0]), centre=1.0),)


def _scale_layer(shape: Shape, args: Literals) -> str:
    sizes = ", ".join(map(str, _scale_weight_shape(shape)))
    return f'nn.ParameterDict({{"weight": nn.Parameter(torch.ones({sizes}))}})'


_ROWS: Final = (
    OpSpec(
        name="conv2d",
        summary="Convolution over height and width, stride 1, padded so that both stay.",
        arity=1,
        arguments={
            "out": Size(),
            "kernel": Choice((1, 3, 5, 7), default=3),
            "groups": Size(default=1),
            "dilation": Size(default=1, most=16),
            "bias": Flag(default=True),
        },
        shape=_conv2d_shape,
        parameters=_conv2d_parameters,
        run=_conv2d_run,
        source=Source(call="{layer}({0})", layer=_conv2d_layer),
        silent_at_zero=True,
    ),
    OpSpec(
        name="linear",
        summary="Affine map of the last dimension.",
        arity=1,
        arguments={"out": Size(), "bias": Flag(default=True)},
        shape=_linear_shape,
        parameters=_linear_parameters,
        run=_from("torch.nn.functional", "linear"),
        source=Source(call="{layer}({0})", layer=_linear_layer),
        silent_at_zero=True,
    ),
    _activation("relu", "The positive part."),
    _activation("gelu", "x times the normal distribution of x.", module="torch.nn.functional"),
    _activation("silu", "x times its sigmoid.", module="torch.nn.functional"),
    _activation("sigmoid", "1 / (1 + exp(-x)): a gate from 0 to 1."),
    _activation("tanh", "The hyperbolic tangent, from -1 to 1."),
    OpSpec(
        name="add",
        summary="Sum of two values, or of a feature map and one value per channel.",
        arity=2,
        shape=_broadcast_shape,
        run=_from("torch", "add"),
        source=Source(call="{0} + {1}"),
    ),
    OpSpec(
        name="mul",
        summary="Product of two values, or of a feature map and one factor per channel.",
        arity=2,
        shape=_broadcast_shape,
        run=_from("torch", "mul"),
        source=Source(call="{0} * {1}"),
    ),
    OpSpec(
        name="group_norm",
        summary="Zero mean and unit variance within each group of channels of a sample.",
        arity=1,
        arguments={"groups": Size(default=1)},
        shape=_group_norm_shape,
        parameters=_affine(0),
        run=_group_norm_run,
        source=Source(
            call="{layer}({0})",
            layer=lambda shape, args: f"nn.GroupNorm({args['groups']}, {shape[0]})",
        ),
    ),
    OpSpec(
        name="layer_norm",
        summary="Zero mean and unit variance along the last dimension.",
        arity=1,
        shape=_layer_norm_shape,
        parameters=_affine(-1),
        run=_layer_norm_run,
        source=Source(call="{layer}({0})", layer=lambda shape, args: f"nn.LayerNorm({shape[-1]})"),
    ),
    OpSpec(
        name="global_avg_pool",
        summary="Mean over height and width, kept as (C, 1, 1).",
        arity=1,
        shape=_pool_shape,
        run=_pool_run,
        source=Source(call="{0}.mean(dim=(-2, -1), keepdim=True)"),
    ),
    OpSpec(
        name="scale",
        summary="One learnable factor per channel, or per feature of the last dimension.",
        arity=1,
        shape=_same_shape,
        parameters=_scale_parameters,
        run=_from("torch", "mul"),
        source=Source(call='{0} * {layer}["weight"]', layer=_scale_layer),
        silent_at_zero=True,
    ),
)

OPS: Final[Mapping[str, OpSpec]] = {row.name: row for row in _ROWS}
"""Every op, by name."""
