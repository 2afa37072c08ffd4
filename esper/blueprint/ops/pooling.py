"""Pooling and reductions over positions or a dim."""

from collections.abc import Sequence
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any

from esper.blueprint.arguments import ChoiceArgument, SizeArgument, SizeListArgument
from esper.blueprint.ops.convolution import strided_size
from esper.blueprint.ops.spec import (
    FEATURE_MAP_RANK,
    MAX_RANK,
    SEQUENCE_RANK,
    Literals,
    OpSpec,
    Run,
    Shape,
    Source,
    dim_size,
    elements_in,
    elements_of,
    functional,
    mismatch,
)

if TYPE_CHECKING:
    from torch import Tensor


def _global_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    match inputs[0]:
        case (channels, _, _):
            return channels, 1, 1
        case (_, features):
            return 1, features
    raise mismatch(f"takes (C, H, W) or (T, D), not {inputs[0]}")


def _positions(rank: int) -> tuple[int, ...]:
    """Return the batch dims, counted from the end, that a global pool reduces."""
    return (-2, -1) if rank == FEATURE_MAP_RANK else (-SEQUENCE_RANK,)


def _global_row(name: str, summary: str, reduction: str) -> OpSpec:
    def run(args: Literals) -> Run:
        reduce: Any = getattr(import_module("torch"), reduction)

        def pool(value: "Tensor") -> "Tensor":
            result: Tensor = reduce(value, _positions(value.dim() - 1), True)
            return result

        return pool

    def call(inputs: Sequence[Shape], args: Literals) -> str:
        return f"{{0}}.{reduction}(dim={_positions(len(inputs[0]))}, keepdim=True)"

    return OpSpec(
        name=name,
        summary=summary,
        shape=_global_shape,
        flops=elements_in(),
        memory=elements_of(_global_shape),
        run=run,
        source=Source(call=call),
    )


def _window_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise mismatch(f"takes (C, H, W), not {inputs[0]}")
    channels, height, width = inputs[0]
    return channels, strided_size(height, args["stride"]), strided_size(width, args["stride"])


def _window_flops(inputs: Sequence[Shape], args: Literals) -> int:
    return int(args["kernel"]) ** 2 * prod(_window_shape(inputs, args))


def _window_row(name: str, summary: str, function: str, settings: dict[str, Any]) -> OpSpec:
    """Return the row of a pool over square windows; `settings` are extra keywords for torch."""

    def run(args: Literals) -> Run:
        pool: Any = functional(function)
        kernel, stride, padding = args["kernel"], args["stride"], args["kernel"] // 2

        def windows(value: "Tensor") -> "Tensor":
            result: Tensor = pool(value, kernel, stride, padding, **settings)
            return result

        return windows

    def call(inputs: Sequence[Shape], args: Literals) -> str:
        numbers = f"{args['kernel']}, {args['stride']}, {args['kernel'] // 2}"
        further = "".join(f", {name}={value}" for name, value in settings.items())
        return f"nn.functional.{function}({{0}}, {numbers}{further})"

    return OpSpec(
        name=name,
        summary=summary,
        arguments={
            "kernel": ChoiceArgument((3, 5, 7), default=3),
            "stride": ChoiceArgument((1, 2, 4), default=1),
        },
        shape=_window_shape,
        flops=_window_flops,
        memory=elements_of(_window_shape),
        run=run,
        source=Source(call=call),
    )


def _adaptive_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    if len(inputs[0]) != FEATURE_MAP_RANK:
        raise mismatch(f"takes (C, H, W), not {inputs[0]}")
    return inputs[0][0], *args["size"]


def _adaptive_run(args: Literals) -> Run:
    pool: Any = functional("adaptive_avg_pool2d")
    size = args["size"]
    return lambda value: pool(value, size)


def _reduced_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    dim = args["dim"]
    dim_size(inputs[0], dim)
    return (*inputs[0][:dim], 1, *inputs[0][dim + 1 :])


def _reduction_row(name: str, summary: str, reduction: str) -> OpSpec:
    def run(args: Literals) -> Run:
        reduce: Any = getattr(import_module("torch"), reduction)
        dim = args["dim"] + 1
        return lambda value: reduce(value, dim, True)

    return OpSpec(
        name=name,
        summary=summary,
        arguments={"dim": SizeArgument(minimum=0, maximum=MAX_RANK - 1)},
        shape=_reduced_shape,
        flops=elements_in(),
        memory=elements_of(_reduced_shape),
        run=run,
        source=Source(
            call=lambda inputs, args: f"{{0}}.{reduction}(dim={args['dim'] + 1}, keepdim=True)"
        ),
    )


ROWS = (
    _global_row("global_avg_pool", "Mean over positions: (C, 1, 1), or (1, D).", "mean"),
    _global_row("global_max_pool", "Maximum over positions: (C, 1, 1), or (1, D).", "amax"),
    _window_row("max_pool", "Maximum of each square window; ceil(H / stride).", "max_pool2d", {}),
    _window_row(
        "avg_pool",
        "Mean of each square window, padding excluded; ceil(H / stride).",
        "avg_pool2d",
        {"count_include_pad": False},
    ),
    OpSpec(
        name="adaptive_avg_pool",
        summary="Mean over each cell of a grid of the given height and width.",
        arguments={"size": SizeListArgument(min_length=2, max_length=2)},
        shape=_adaptive_shape,
        flops=elements_in(),
        memory=elements_of(_adaptive_shape),
        run=_adaptive_run,
        source=Source(
            call=lambda inputs, args: f"nn.functional.adaptive_avg_pool2d({{0}}, {args['size']})"
        ),
    ),
    _reduction_row("mean", "Mean over one dim, which becomes 1.", "mean"),
    _reduction_row("max", "Maximum over one dim, which becomes 1.", "amax"),
)
