"""Random graphs that fit a random site, of every op: for laws that hold of all blueprints."""

from collections.abc import Sequence
from math import prod
from typing import Any

from hypothesis import strategies as st

from esper.blueprint.arguments import (
    Argument,
    ChoiceArgument,
    FlagArgument,
    NumberArgument,
    SizeArgument,
    SizeListArgument,
)
from esper.blueprint.ops import OPS, OpSpec, Shape
from esper.blueprint.rejection import BlueprintRejected
from esper.topics.models import Blueprint, Node, Parameter, SiteKind, SiteSignature

LONGEST_CHAIN = 6
MOST_ELEMENTS = 2000
SYMBOLS = {
    SiteKind.VECTOR: ("D",),
    SiteKind.SEQUENCE: ("T", "D"),
    SiteKind.FEATURE_MAP: ("C", "H", "W"),
}
AUTHORS = tuple(row for row in OPS.values() if not row.internal)


@st.composite
def sites(draw: st.DrawFn) -> SiteSignature:
    """A small site of any kind, whose x and h may differ in every size."""
    kind = draw(st.sampled_from(SiteKind))
    shape = st.tuples(*(st.integers(1, 7) for _ in SYMBOLS[kind]))
    return SiteSignature(kind=kind, x=draw(shape), h=draw(shape))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Blueprint, SiteSignature]:
    """A chain of random ops, whose further inputs are any earlier values, brought back to h."""
    site = draw(sites())
    values: dict[str, Shape] = {"x": site.x, "h": site.h}
    last = draw(st.sampled_from(("x", "h")))
    nodes: list[Node] = []
    for index in range(draw(st.integers(1, LONGEST_CHAIN))):
        drawn = draw(steps(last, values)) or draw(steps(last, values))
        if drawn is None:
            continue
        op, inputs, args, shape = drawn
        last = f"n{index}"
        nodes.append(Node(id=last, op=op, inputs=inputs, args=args))
        values[last] = shape
    back = (
        Node(id="flat", op="reshape", inputs=(last,), args={"shape": ("elements",)}),
        Node(id="wide", op="linear", inputs=("flat",), args={"out": "*".join(SYMBOLS[site.kind])}),
        Node(id="back", op="reshape", inputs=("wide",), args={"shape": SYMBOLS[site.kind]}),
    )
    graph = Blueprint(
        blueprint_id="drawn",
        kind=site.kind,
        parameters={"elements": Parameter(default=prod(values[last]))},
        nodes=(*nodes, *back),
        output="back",
    )
    return graph, site


Drawn = tuple[str, tuple[str, ...], dict[str, Any], Shape]


@st.composite
def steps(draw: st.DrawFn, last: str, values: dict[str, Shape]) -> Drawn | None:
    """An op that reads `last` and fits; None where what was drawn does not fit."""
    spec = draw(st.sampled_from(AUTHORS))
    count = draw(st.integers(spec.min_inputs, spec.max_inputs)) - 1
    anything = st.lists(st.sampled_from(sorted(values)), min_size=count, max_size=count)
    others = draw(st.just([last] * count) | anything)
    inputs = (last, *others)
    shapes = [values[name] for name in inputs]
    args = draw(fitting(spec, shapes[0]))
    try:
        shape = spec.shape(shapes, args)
    except BlueprintRejected:
        return None
    return (spec.name, inputs, args, shape) if prod(shape) <= MOST_ELEMENTS else None


def fitting(spec: OpSpec, shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of an op, with a better chance than any to fit its first input."""
    dims = st.integers(0, len(shape) - 1)
    known: dict[str, st.SearchStrategy[Any]] = {
        "order": st.permutations(range(len(shape))).map(tuple),
        "dim": dims,
        "index": st.integers(0, 1),
        "groups": st.sampled_from((1, shape[0], shape[-1])),
        "parts": st.sampled_from((1, *shape)),
        "heads": st.sampled_from((1, shape[-1])),
    }
    if spec.name == "split":
        return dims.flatmap(lambda dim: _split_of(dim, shape[dim]))
    if spec.name == "reshape":
        known["shape"] = st.sampled_from(_reshapings(shape))
    return st.fixed_dictionaries(
        {
            name: known[name] if name in known else _small(each)
            for name, each in spec.arguments.items()
        }
    )


def _split_of(dim: int, size: int) -> st.SearchStrategy[dict[str, Any]]:
    sizes = st.integers(1, size).map(lambda first: tuple(filter(None, (first, size - first))))
    return st.fixed_dictionaries({"sizes": sizes, "index": st.integers(0, 1), "dim": st.just(dim)})


def _reshapings(shape: Shape) -> Sequence[Shape]:
    reversed_shape = tuple(reversed(shape))
    return (shape, reversed_shape, (prod(shape),), (1, prod(shape)), (prod(shape), 1, 1, 1))


def _small(argument: Argument) -> st.SearchStrategy[Any]:
    match argument:
        case SizeArgument(minimum=minimum, maximum=maximum):
            return st.integers(max(minimum, -5), min(maximum, 9))
        case ChoiceArgument(options=options):
            return st.sampled_from(options)
        case NumberArgument(minimum=minimum, exclusive_maximum=below):
            return st.floats(minimum, below, exclude_max=True)
        case FlagArgument():
            return st.booleans()
        case SizeListArgument(min_length=shortest, max_length=longest):
            return st.lists(_small(argument.member), min_size=shortest, max_size=longest).map(tuple)
