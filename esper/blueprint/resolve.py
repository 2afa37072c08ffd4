"""What a blueprint becomes at one site: every size a number, every value a shape and a cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from esper.blueprint.check import INPUTS, check
from esper.blueprint.expressions import sizes_of
from esper.blueprint.family import values_at
from esper.blueprint.ops import OPS, Literals, OpSpec, ParameterSpec, Shape, op_named
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.topics.models import Blueprint, Node, SiteSignature

MAX_PARAMETERS: Final = 5_000_000
MAX_ACTIVATIONS: Final = 1 << 25
"""Elements that all steps together allocate for one sample."""

MAX_FLOPS: Final = 20_000_000_000
"""FLOPs for one sample: a whole ResNet-50 takes 8e9; beyond this no core validates in time."""

BIRTH_SCALE: Final = "birth_scale"
"""Id of the node appended where a graph's own output cannot be silent."""


@dataclass(frozen=True, slots=True)
class ResolvedNode:
    """One node at a site; `inputs` are slots: 0 is `x`, 1 is `h`, node i fills slot i + 2."""

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
        """Count of learnable numbers."""
        return sum(prod(parameter.shape) for parameter in self.parameters)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A blueprint at a site, with the value of each of its parameters there.

    Its last node is one that zero parameters silence. Costs are for one sample: FLOPs, and the
    elements that are allocated going forward.
    """

    signature: SiteSignature
    values: Mapping[str, int]
    nodes: tuple[ResolvedNode, ...]

    @property
    def params(self) -> int:
        """Count of learnable numbers."""
        return sum(node.params for node in self.nodes)

    @property
    def flops(self) -> int:
        """FLOPs of one sample, forward."""
        return sum(node.flops for node in self.nodes)

    @property
    def memory(self) -> int:
        """Elements allocated for one sample, forward."""
        return sum(node.memory for node in self.nodes)


def resolve(blueprint: Blueprint, signature: SiteSignature) -> Resolved:
    """Return what a blueprint becomes at a site.

    A kernel must be an exact no-op at birth and still receive gradient, so its last op is one
    that zero parameters silence. Where the output is another op, a `scale` follows it.

    Raises:
        BlueprintRejected: the blueprint is malformed, does not fit the site, or exceeds a limit;
            with the code and the node at fault.
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
    spent = _Spent()
    for node in _silenced(blueprint):
        inputs = tuple(slots[name] for name in node.inputs)
        resolved = _resolve_node(node, inputs, [shapes[slot] for slot in inputs], sizes)
        spent.add(resolved)
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
        written = node.args.get(name, argument.default)
        assert written is not None, "check() refuses a node without a needed argument"
        try:
            literals[name] = argument.resolve(written, sizes)
        except BlueprintRejected as rejection:
            raise rejection.at(f"node {node.id!r}, argument {name!r}") from None
    return literals


class _Spent:
    """What the nodes so far cost together; refuses the node that exceeds a limit."""

    def __init__(self) -> None:
        self._params = self._memory = self._flops = 0

    def add(self, node: ResolvedNode) -> None:
        self._params += node.params
        self._memory += node.memory
        self._flops += node.flops
        for spent, most, what, code in (
            (self._params, MAX_PARAMETERS, "parameters", RejectionCode.TOO_MANY_PARAMETERS),
            (
                self._memory,
                MAX_ACTIVATIONS,
                "activations a sample",
                RejectionCode.TOO_MANY_ACTIVATIONS,
            ),
            (self._flops, MAX_FLOPS, "FLOPs a sample", RejectionCode.TOO_MANY_FLOPS),
        ):
            if spent > most:
                raise BlueprintRejected(
                    code, f"node {node.id!r}: {spent} {what} so far; at most {most}"
                )


def _silenced(blueprint: Blueprint) -> tuple[Node, ...]:
    """Append a `scale` unless the last node already falls silent at zero."""
    if OPS[blueprint.nodes[-1].op].zero_output_at_zero_weights:
        return blueprint.nodes
    taken = {node.id for node in blueprint.nodes}
    free = (f"{BIRTH_SCALE}{suffix}" for suffix in ("", *map(str, range(len(taken)))))
    name = next(name for name in free if name not in taken)
    return (*blueprint.nodes, Node(id=name, op="scale", inputs=(blueprint.output,)))
