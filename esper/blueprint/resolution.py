"""Resolve a blueprint at a site: sizes become numbers, values get shapes and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from esper.blueprint.expressions import sizes_of
from esper.blueprint.family import values_at
from esper.blueprint.ops import OPS, Literals, OpSpec, ParameterSpec, Shape, op_named
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.blueprint.validation import INPUTS, check
from esper.topics.models import Blueprint, Node, SiteSignature

MAX_PARAMETERS: Final = 5_000_000
MAX_ACTIVATIONS: Final = 1 << 25
"""Elements that all steps together allocate for one sample."""

MAX_FLOPS: Final = 20_000_000_000
"""FLOPs for one sample (ResNet-50: 8e9); a core cannot validate more within the time limit."""

BIRTH_SCALE: Final = "birth_scale"
"""Id of the `scale` node appended to a graph whose output cannot be zero at birth."""


@dataclass(frozen=True, slots=True)
class ResolvedNode:
    """One node at a site; `inputs` are value slots: 0 is `x`, 1 is `h`, i + 2 is node i."""

    id: str
    spec: OpSpec
    inputs: tuple[int, ...]
    args: Literals
    output: Shape
    parameters: tuple[ParameterSpec, ...]
    flops: int
    memory: int

    @property
    def params(self) -> int:
        """Number of learnable scalars."""
        return sum(prod(parameter.shape) for parameter in self.parameters)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A blueprint at a site, with the values of its parameters there.

    The output of the last node is zero where its weights are. Costs are for one sample: FLOPs,
    and elements allocated in the forward pass.
    """

    signature: SiteSignature
    values: Mapping[str, int]
    nodes: tuple[ResolvedNode, ...]

    @property
    def params(self) -> int:
        """Number of learnable scalars."""
        return sum(node.params for node in self.nodes)

    @property
    def flops(self) -> int:
        """Forward FLOPs of one sample."""
        return sum(node.flops for node in self.nodes)

    @property
    def memory(self) -> int:
        """Elements allocated for one sample in the forward pass."""
        return sum(node.memory for node in self.nodes)


def resolve(blueprint: Blueprint, signature: SiteSignature) -> Resolved:
    """Return a blueprint resolved at a site.

    A kernel must be an exact no-op at birth and still receive gradient, so its last op must have
    `zero_output_at_zero_weights`. A `scale` is appended to a graph with another last op.

    Raises:
        BlueprintRejected: the blueprint is malformed, does not fit the site, or exceeds a limit;
            the exception names the code and the node.
    """
    check(blueprint)
    if signature.kind not in blueprint.kinds:
        served = " or ".join(blueprint.kinds)
        raise BlueprintRejected(
            RejectionCode.WRONG_KIND,
            f"a blueprint for a {served} cannot serve a {signature.kind}",
        )
    sizes = sizes_of(signature)
    values = values_at(blueprint, sizes)
    nodes = _resolve_nodes(blueprint, signature, sizes | values)
    if nodes[-1].output != signature.h:
        raise BlueprintRejected(
            RejectionCode.OUTPUT_SHAPE,
            f"the output {nodes[-1].id!r} is {nodes[-1].output}; h of this site is {signature.h}",
        )
    return Resolved(signature, values, nodes)


def _resolve_nodes(
    blueprint: Blueprint, signature: SiteSignature, sizes: Mapping[str, int]
) -> tuple[ResolvedNode, ...]:
    slots = {name: slot for slot, name in enumerate(INPUTS)}
    shapes: list[Shape] = [signature.x, signature.h]
    nodes: list[ResolvedNode] = []
    costs = _CostLimits()
    for node in _ending_at_zero(blueprint):
        inputs = tuple(slots[name] for name in node.inputs)
        resolved = _resolve_node(node, inputs, [shapes[slot] for slot in inputs], sizes)
        costs.add(resolved)
        slots[node.id] = len(shapes)
        shapes.append(resolved.output)
        nodes.append(resolved)
    return tuple(nodes)


def _resolve_node(
    node: Node, slots: tuple[int, ...], inputs: Sequence[Shape], sizes: Mapping[str, int]
) -> ResolvedNode:
    spec = op_named(node.op)
    args = _literals(node, spec, sizes)
    try:
        output = spec.shape(inputs, args)
    except BlueprintRejected as rejection:
        raise rejection.at(f"node {node.id!r}, {node.op}") from None
    return ResolvedNode(
        id=node.id,
        spec=spec,
        inputs=slots,
        args=args,
        output=output,
        parameters=spec.parameters(inputs, args),
        flops=spec.flops(inputs, args),
        memory=spec.memory(inputs, args),
    )


def _literals(node: Node, spec: OpSpec, sizes: Mapping[str, int]) -> Literals:
    literals = {}
    for name, argument in spec.arguments.items():
        authored = node.args.get(name, argument.default)
        assert authored is not None, "check() rejects a node without a required argument"
        try:
            literals[name] = argument.resolve(authored, sizes)
        except BlueprintRejected as rejection:
            raise rejection.at(f"node {node.id!r}, argument {name!r}") from None
    return literals


class _CostLimits:
    """Sum the costs of the nodes; reject the node that exceeds a limit."""

    def __init__(self) -> None:
        self._params = self._memory = self._flops = 0

    def add(self, node: ResolvedNode) -> None:
        self._params += node.params
        self._memory += node.memory
        self._flops += node.flops
        for spent, limit, unit, code in (
            (self._params, MAX_PARAMETERS, "parameters", RejectionCode.TOO_MANY_PARAMETERS),
            (
                self._memory,
                MAX_ACTIVATIONS,
                "activations a sample",
                RejectionCode.TOO_MANY_ACTIVATIONS,
            ),
            (self._flops, MAX_FLOPS, "FLOPs a sample", RejectionCode.TOO_MANY_FLOPS),
        ):
            if spent > limit:
                raise BlueprintRejected(
                    code, f"node {node.id!r}: {spent} {unit} so far; at most {limit}"
                )


def _ending_at_zero(blueprint: Blueprint) -> tuple[Node, ...]:
    """Return the nodes, with a `scale` appended unless the last is zero at zero weights."""
    if OPS[blueprint.nodes[-1].op].zero_output_at_zero_weights:
        return blueprint.nodes
    taken = {node.id for node in blueprint.nodes}
    free = (f"{BIRTH_SCALE}{suffix}" for suffix in ("", *map(str, range(len(taken)))))
    name = next(name for name in free if name not in taken)
    return (*blueprint.nodes, Node(id=name, op="scale", inputs=(blueprint.output,)))
