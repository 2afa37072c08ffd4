"""Compilation: a blueprint at one site becomes a plan, every size a number."""

from collections.abc import Mapping
from math import prod
from typing import Final

from esper.blueprint.check import check
from esper.blueprint.expressions import sizes_of
from esper.blueprint.identity import kernel_id
from esper.blueprint.ops import OPS, Shape, op_named
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.kernel.plan import FIRST_STEP_SLOT, MAX_ACTIVATIONS, MAX_PARAMETERS, Plan, Step
from topics.models import Blueprint, Node, SiteSignature

BIRTH_SCALE: Final = "birth_scale"
"""Id of the step appended where a graph's own output cannot be silent."""


class BlueprintCompiler:
    """The pure step from a blueprint to a plan: the same arguments give the same plan."""

    def compile(self, blueprint: Blueprint, signature: SiteSignature) -> Plan:
        """Return the plan of a blueprint at a site.

        A kernel must be an exact no-op at birth and still receive gradient, so its last op is
        one that zero parameters silence. Where the output is another op, a `scale` follows it.

        Raises:
            BlueprintRejected: the blueprint is malformed, does not fit the site, or exceeds a
                limit; with the code and the node at fault.
        """
        check(blueprint)
        if blueprint.kind is not signature.kind:
            raise BlueprintRejected(
                RejectionCode.WRONG_KIND,
                f"a blueprint for a {blueprint.kind} cannot serve a {signature.kind}",
            )
        steps = _resolve(blueprint, sizes_of(signature))
        _check_shapes(steps, signature)
        return Plan(
            kernel_id=kernel_id(blueprint, signature),
            signature=signature,
            steps=_silenced(blueprint, steps),
        )


def _resolve(blueprint: Blueprint, sizes: Mapping[str, int]) -> tuple[Step, ...]:
    slots = {"x": 0, "h": 1}
    steps = []
    for slot, node in enumerate(blueprint.nodes, start=FIRST_STEP_SLOT):
        inputs = tuple(slots[name] for name in node.inputs)
        steps.append(Step(node=node.id, op=node.op, inputs=inputs, args=_literals(node, sizes)))
        slots[node.id] = slot
    return tuple(steps)


def _literals(node: Node, sizes: Mapping[str, int]) -> dict[str, int | bool]:
    literals = {}
    for name, argument in op_named(node.op).arguments.items():
        written = node.args.get(name, argument.default)
        assert written is not None, "check() refuses a node without a needed argument"
        try:
            literals[name] = argument.resolve(written, sizes)
        except BlueprintRejected as rejection:
            raise rejection.at(f"node {node.id!r}, argument {name!r}") from None
    return literals


def _check_shapes(steps: tuple[Step, ...], signature: SiteSignature) -> None:
    shapes: list[Shape] = [signature.x, signature.h]
    parameters = activations = 0
    for step in steps:
        spec = op_named(step.op)
        inputs = [shapes[slot] for slot in step.inputs]
        try:
            shapes.append(spec.shape(inputs, step.args))
        except BlueprintRejected as rejection:
            raise rejection.at(f"node {step.node!r}, {step.op}") from None
        parameters += sum(prod(spec.shape) for spec in spec.parameters(inputs, step.args))
        activations += prod(shapes[-1])
        _check_limits(step.node, parameters, activations)
    if shapes[-1] != signature.h:
        raise BlueprintRejected(
            RejectionCode.OUTPUT_SHAPE,
            f"the output {steps[-1].node!r} is {shapes[-1]}; h of this site is {signature.h}",
        )


def _check_limits(node: str, parameters: int, activations: int) -> None:
    if parameters > MAX_PARAMETERS:
        raise BlueprintRejected(
            RejectionCode.TOO_MANY_PARAMETERS,
            f"node {node!r}: {parameters} parameters so far; at most {MAX_PARAMETERS}",
        )
    if activations > MAX_ACTIVATIONS:
        raise BlueprintRejected(
            RejectionCode.TOO_MANY_ACTIVATIONS,
            f"node {node!r}: {activations} activations a sample so far; at most {MAX_ACTIVATIONS}",
        )


def _silenced(blueprint: Blueprint, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Append a `scale` unless the last step already falls silent at zero."""
    if OPS[steps[-1].op].silent_at_zero:
        return steps
    taken = {node.id for node in blueprint.nodes}
    free = (f"{BIRTH_SCALE}{suffix}" for suffix in ("", *map(str, range(len(taken)))))
    name = next(name for name in free if name not in taken)
    last = FIRST_STEP_SLOT + len(steps) - 1
    return (*steps, Step(node=name, op="scale", inputs=(last,)))
