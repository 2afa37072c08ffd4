"""The structural check of a blueprint: everything that does not depend on a site."""

from typing import Final

from esper.blueprint.expressions import symbols_of
from esper.blueprint.family import check_parameters, check_parameters_used
from esper.blueprint.ops import OpSpec, op_named
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.topics.models import Blueprint, Node

INPUTS: Final = ("x", "h")
"""The inputs of a graph: the site's input `x`, and `h`, the host layer's output for it."""


def check(blueprint: Blueprint) -> None:
    """Raise BlueprintRejected if a blueprint is malformed whatever the site.

    Raises:
        BlueprintRejected: with the code and the node of the first fault in node order.
    """
    symbols = symbols_of(*blueprint.kinds)
    check_parameters(blueprint, symbols)
    symbols |= blueprint.parameters.keys()
    positions = _positions(blueprint)
    for position, node in enumerate(blueprint.nodes):
        try:
            spec = op_named(node.op)
            _check_references(node, position, positions, spec)
            _check_arguments(node, spec, symbols)
        except BlueprintRejected as rejection:
            raise rejection.at(f"node {node.id!r}") from None
    _check_output(blueprint, positions)
    check_parameters_used(blueprint)


def _positions(blueprint: Blueprint) -> dict[str, int]:
    positions: dict[str, int] = {}
    for position, node in enumerate(blueprint.nodes):
        if node.id in INPUTS:
            raise BlueprintRejected(
                RejectionCode.RESERVED_NAME,
                f"node {node.id!r}: x and h are the graph's inputs; choose another id",
            )
        if node.id in positions:
            raise BlueprintRejected(
                RejectionCode.DUPLICATE_NODE,
                f"node {node.id!r}: an earlier node has the same id; ids must be unique",
            )
        positions[node.id] = position
    return positions


def _check_references(node: Node, position: int, positions: dict[str, int], spec: OpSpec) -> None:
    if not spec.min_inputs <= len(node.inputs) <= spec.max_inputs:
        raise BlueprintRejected(
            RejectionCode.WRONG_ARITY,
            f"{node.op} takes {spec.arity}, not {len(node.inputs)}",
        )
    for name in node.inputs:
        if name in INPUTS:
            continue
        if name not in positions:
            raise BlueprintRejected(
                RejectionCode.DANGLING_REFERENCE,
                f"reads {name!r}, which is not x, h or a node",
            )
        if positions[name] >= position:
            raise BlueprintRejected(
                RejectionCode.CYCLE,
                f"reads {name!r}, which is not an earlier node; list nodes in order of computation",
            )


def _check_arguments(node: Node, spec: OpSpec, symbols: frozenset[str]) -> None:
    for name, value in node.args.items():
        if (argument := spec.arguments.get(name)) is None:
            known = ", ".join(spec.arguments) or "none"
            raise BlueprintRejected(
                RejectionCode.UNKNOWN_ARGUMENT,
                f"{node.op} has no argument {name!r}; its arguments: {known}",
            )
        try:
            argument.check(value, symbols)
        except BlueprintRejected as rejection:
            raise rejection.at(f"argument {name!r}") from None
    for name, argument in spec.arguments.items():
        if argument.default is None and name not in node.args:
            raise BlueprintRejected(
                RejectionCode.MISSING_ARGUMENT, f"{node.op} needs the argument {name!r}"
            )


def _check_output(blueprint: Blueprint, positions: dict[str, int]) -> None:
    if blueprint.output not in positions:
        raise BlueprintRejected(
            RejectionCode.OUTPUT_MISSING, f"the output {blueprint.output!r} is not a node"
        )
    live = {blueprint.output}
    for node in reversed(blueprint.nodes):
        if node.id not in live:
            raise BlueprintRejected(
                RejectionCode.DEAD_NODE,
                f"node {node.id!r}: the output does not depend on it; use or remove the node",
            )
        live.update(node.inputs)
