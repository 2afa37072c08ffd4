"""Scaled dot-product attention between positions."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.blueprint.arguments import FlagArgument, SizeArgument
from esper.blueprint.expressions import MAX_SIZE
from esper.blueprint.ops.spec import (
    SEQUENCE_RANK,
    Literals,
    OpSpec,
    Run,
    Shape,
    Source,
    functional,
    mismatch,
)

if TYPE_CHECKING:
    from torch import Tensor


def _shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    query, key, value = inputs
    if not len(query) == len(key) == len(value) == SEQUENCE_RANK:
        raise mismatch(f"takes three values (T, D), not {query}, {key}, {value}")
    if key != value or query[1] != key[1]:
        raise mismatch(
            f"query {query}, key {key}, value {value}: key and value need one shape, "
            f"query the same features"
        )
    if query[1] % args["heads"]:
        raise mismatch(f"heads {args['heads']} must divide the {query[1]} features")
    if (args["causal"] or args["window"]) and query != key:
        raise mismatch(f"causal and window need equal query {query} and key {key}")
    return query


def _flops(inputs: Sequence[Shape], args: Literals) -> int:
    query, key, _ = inputs
    return 4 * query[0] * key[0] * query[1]


def _memory(inputs: Sequence[Shape], args: Literals) -> int:
    """Return the elements of the result and, with a window, of its mask."""
    (length, features), key, _ = inputs
    return length * features + (length * key[0] if args["window"] else 0)


def _last_diagonal(args: Literals) -> int:
    """Return how many later positions a position may read within the window."""
    return 0 if args["causal"] else int(args["window"]) - 1


def _run(args: Literals) -> Run:
    attend: Any = functional("scaled_dot_product_attention")
    boolean: Any = import_module("torch").bool
    heads, window, causal = args["heads"], args["window"], args["causal"]

    def split(value: Any) -> Any:
        # With non-contiguous features torch would materialise the T x T weights.
        return value.contiguous().unflatten(-1, (heads, -1)).transpose(1, 2)

    def run(query: "Tensor", key: "Tensor", value: "Tensor") -> "Tensor":
        mask = None
        if window:
            mask = query.new_ones(query.shape[1], query.shape[1], dtype=boolean)
            mask = mask.triu(1 - window).tril(_last_diagonal(args))
        result: Tensor = attend(
            split(query), split(key), split(value), mask, 0.0, causal and not window
        )
        return result.transpose(1, 2).flatten(2)

    return run


def _call(inputs: Sequence[Shape], args: Literals) -> str:
    (length, features), _, _ = inputs
    heads = f"({args['heads']}, {features // args['heads']})"
    split = f"value.contiguous().unflatten(-1, {heads}).transpose(1, 2)"
    operands = f"*({split} for value in ({{0}}, {{1}}, {{2}}))"
    if args["window"]:
        ones = f"{{0}}.new_ones({length}, {length}, dtype=torch.bool)"
        band = f"{ones}.triu({1 - args['window']}).tril({_last_diagonal(args)})"
        operands += f", attn_mask={band}"
    elif args["causal"]:
        operands += ", is_causal=True"
    attended = f"nn.functional.scaled_dot_product_attention({operands})"
    return f"{attended}.transpose(1, 2).flatten(2)"


ROWS = (
    OpSpec(
        name="attention",
        summary="Softmax attention of query, key, value; window w: positions less than w apart.",
        min_inputs=3,
        max_inputs=3,
        arguments={
            "heads": SizeArgument(default=1),
            "causal": FlagArgument(default=False),
            "window": SizeArgument(default=0, minimum=0, maximum=MAX_SIZE),
        },
        shape=_shape,
        flops=_flops,
        memory=_memory,
        run=_run,
        source=Source(call=_call),
    ),
)
