"""Ops that move elements without arithmetic. Dims are counted from 0, without the batch."""

from collections.abc import Callable, Sequence
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any

from esper.blueprint.arguments import MAX_LIST, SizeArgument, SizeListArgument
from esper.blueprint.expressions import MAX_SIZE
from esper.blueprint.ops.spec import (
    MAX_RANK,
    Literals,
    OpSpec,
    Run,
    Shape,
    ShapeRule,
    Source,
    dim_size,
    elements_of,
    functional,
    mismatch,
    no_cost,
    same_shape,
)

if TYPE_CHECKING:
    from torch import Tensor

DIM = SizeArgument(minimum=0, maximum=MAX_RANK - 1)
INDEX = SizeArgument(minimum=0)


def _concat_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    dim = args["dim"]
    dim_size(inputs[0], dim)
    first = inputs[0]
    for other in inputs[1:]:
        if len(other) != len(first) or any(
            a != b for at, (a, b) in enumerate(zip(first, other, strict=True)) if at != dim
        ):
            raise mismatch(f"{first} and {other} differ in more than dim {dim}")
    return (*first[:dim], sum(shape[dim] for shape in inputs), *first[dim + 1 :])


def _concat_run(args: Literals) -> Run:
    cat: Any = import_module("torch").cat
    dim = args["dim"] + 1

    def run(*values: "Tensor") -> "Tensor":
        result: Tensor = cat(values, dim)
        return result

    return run


def _concat_call(inputs: Sequence[Shape], args: Literals) -> str:
    values = ", ".join(f"{{{position}}}" for position in range(len(inputs)))
    return f"torch.cat(({values}), {args['dim'] + 1})"


def _equal_sizes(size: int, args: Literals) -> tuple[int, ...]:
    if size % args["parts"]:
        raise mismatch(
            f"dim {args['dim']} is {size}, which does not divide into {args['parts']} equal parts"
        )
    return (size // int(args["parts"]),) * int(args["parts"])


def _given_sizes(size: int, args: Literals) -> tuple[int, ...]:
    sizes: tuple[int, ...] = args["sizes"]
    if sum(sizes) != size:
        raise mismatch(f"sizes {list(sizes)} add up to {sum(sizes)}; dim {args['dim']} is {size}")
    return sizes


def _part_row(
    name: str,
    summary: str,
    sizes_of: Callable[[int, Literals], tuple[int, ...]],
    arguments: dict[str, SizeArgument | SizeListArgument],
    run: Callable[[Literals], Run],
) -> OpSpec:
    """Return the row of an op that selects one part of a dim; `sizes_of` gives the part sizes."""

    def part(shape: Sequence[int], args: Literals) -> tuple[int, int]:
        """Return the start and the length of the part."""
        index, sizes = args["index"], sizes_of(dim_size(shape, args["dim"]), args)
        if index >= len(sizes):
            raise mismatch(f"index {index} is beyond the {len(sizes)} parts; the first is 0")
        return sum(sizes[:index]), sizes[index]

    def shape(inputs: Sequence[Shape], args: Literals) -> Shape:
        dim, (_, length) = args["dim"], part(inputs[0], args)
        return (*inputs[0][:dim], length, *inputs[0][dim + 1 :])

    def call(inputs: Sequence[Shape], args: Literals) -> str:
        start, length = part(inputs[0], args)
        return f"{{0}}.narrow({args['dim'] + 1}, {start}, {length})"

    return OpSpec(
        name=name,
        summary=summary,
        arguments=arguments | {"index": INDEX, "dim": DIM},
        shape=shape,
        memory=no_cost,
        run=run,
        source=Source(call=call),
    )


def _chunk_run(args: Literals) -> Run:
    dim, parts, index = args["dim"] + 1, args["parts"], args["index"]

    def run(value: "Tensor") -> "Tensor":
        length = value.shape[dim] // parts
        return value.narrow(dim, index * length, length)

    return run


def _split_run(args: Literals) -> Run:
    dim, sizes, index = args["dim"] + 1, args["sizes"], args["index"]
    start, length = sum(sizes[:index]), sizes[index]
    return lambda value: value.narrow(dim, start, length)


def _reshape_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    shape: Shape = args["shape"]
    if prod(shape) != prod(inputs[0]):
        raise mismatch(
            f"{inputs[0]} has {prod(inputs[0])} elements; {list(shape)} would have {prod(shape)}"
        )
    return shape


def _reshape_run(args: Literals) -> Run:
    shape = args["shape"]
    return lambda value: value.reshape(value.shape[0], *shape)


def _reshape_call(inputs: Sequence[Shape], args: Literals) -> str:
    return f"{{0}}.reshape({{0}}.shape[0], {', '.join(map(str, args['shape']))})"


def _transpose_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    order = args["order"]
    if sorted(order) != list(range(len(inputs[0]))):
        raise mismatch(
            f"order {list(order)} is not a permutation of the dims of {inputs[0]}, counted from 0"
        )
    return tuple(inputs[0][dim] for dim in order)


def _permutation(args: Literals) -> tuple[int, ...]:
    return (0, *(dim + 1 for dim in args["order"]))


def _moved_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    dim_size(inputs[0], args["dim"])
    return inputs[0]


def _roll_run(args: Literals) -> Run:
    roll: Any = import_module("torch").roll
    by, dim = args["by"], args["dim"] + 1
    return lambda value: roll(value, by, dim)


def _shift_padding(shape: Sequence[int], args: Literals) -> tuple[int, ...]:
    """Return the arguments of `pad`, from the last dim to the shifted dim; it crops the end."""
    by = min(args["by"], shape[args["dim"]])
    untouched = (0, 0) * (len(shape) - 1 - int(args["dim"]))
    return (*untouched, by, -by)


def _shift_run(args: Literals) -> Run:
    pad = functional("pad")

    def run(value: "Tensor") -> "Tensor":
        result: Tensor = pad(value, _shift_padding(value.shape[1:], args))
        return result

    return run


def _movement_row(name: str, summary: str, by: SizeArgument, run: Any, source: Source) -> OpSpec:
    shape: ShapeRule = _moved_shape
    return OpSpec(
        name=name,
        summary=summary,
        arguments={"by": by, "dim": DIM},
        shape=shape,
        memory=elements_of(same_shape),
        run=run,
        source=source,
    )


ROWS = (
    OpSpec(
        name="concat",
        summary="Concatenation along a dim; the other dims must be equal.",
        min_inputs=2,
        max_inputs=8,
        arguments={"dim": DIM},
        shape=_concat_shape,
        memory=elements_of(_concat_shape),
        run=_concat_run,
        source=Source(call=_concat_call),
    ),
    _part_row(
        "chunk",
        "One of several equal parts along a dim; the first has index 0.",
        _equal_sizes,
        {"parts": SizeArgument(maximum=64)},
        _chunk_run,
    ),
    _part_row(
        "split",
        "One of several parts of given sizes along a dim; the first has index 0.",
        _given_sizes,
        {"sizes": SizeListArgument(min_length=1, max_length=MAX_LIST)},
        _split_run,
    ),
    OpSpec(
        name="reshape",
        summary="The same elements, in the same order, in another shape.",
        arguments={"shape": SizeListArgument(min_length=1, max_length=MAX_RANK)},
        shape=_reshape_shape,
        memory=elements_of(_reshape_shape),
        run=_reshape_run,
        source=Source(call=_reshape_call),
    ),
    OpSpec(
        name="transpose",
        summary="The dims in another order: dim i of the result is dim order[i] of the value.",
        arguments={
            "order": SizeListArgument(
                min_length=1, max_length=MAX_RANK, minimum=0, maximum=MAX_RANK - 1
            )
        },
        shape=_transpose_shape,
        memory=no_cost,
        run=lambda args: lambda value: value.permute(_permutation(args)),
        source=Source(call=lambda inputs, args: f"{{0}}.permute({_permutation(args)})"),
    ),
    _movement_row(
        "roll",
        "Cyclic shift along a dim: elements that leave at one end enter at the other.",
        SizeArgument(minimum=-MAX_SIZE),
        _roll_run,
        Source(call=lambda inputs, args: f"{{0}}.roll({args['by']}, {args['dim'] + 1})"),
    ),
    _movement_row(
        "shift",
        "Shift to later positions along a dim; zeros fill the start.",
        SizeArgument(),
        _shift_run,
        Source(
            call=lambda inputs, args: f"nn.functional.pad({{0}}, {_shift_padding(inputs[0], args)})"
        ),
    ),
)
