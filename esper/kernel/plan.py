"""A plan: a kernel as data, with numeric sizes and ops from the table.

Slots hold values: slot 0 is `x`, slot 1 is `h`, and step i fills slot i + 2, once. The last step's
value is the kernel's. Construction validates every step against the table of ops, so every
`KernelPlan` is valid, whether a compiler or untrusted bytes made it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from esper.blueprint import (
    MAX_ACTIVATIONS,
    MAX_FLOPS,
    MAX_PARAMETERS,
    BlueprintRejected,
    OpSpec,
    ParameterSpec,
    Shape,
    op_named,
    sizes_of,
)
from esper.kernel.refusal import ArtifactRefused
from esper.topics.codec import encode
from esper.topics.models import Sha256, SiteSignature

MAX_STEPS: Final = 130
"""The limit of nodes in a blueprint, and of steps that the compiler appends."""

MAX_PLAN_BYTES: Final = 1 << 17
FIRST_STEP_SLOT: Final = 2

_NODE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")

Slot = Annotated[int, Field(ge=0, lt=MAX_STEPS + FIRST_STEP_SLOT)]
Argument = int | float | bool | Annotated[tuple[int, ...], Field(max_length=8)]


class PlanStep(BaseModel):
    """One op: the slots to read, the arguments as literals, and the slots to free afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    node: str
    op: str
    inputs: Annotated[tuple[Slot, ...], Field(min_length=1, max_length=8)]
    args: Annotated[dict[str, Argument], Field(max_length=16)] = {}
    frees: Annotated[tuple[Slot, ...], Field(max_length=8)] = ()


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A step's shapes, parameters and costs for one sample, from the table of ops."""

    spec: OpSpec
    inputs: tuple[Shape, ...]
    output: Shape
    parameters: tuple[ParameterSpec, ...]
    flops: int
    memory: int


class KernelPlan(BaseModel):
    """A kernel for one site signature, without its weights.

    Raises:
        ArtifactRefused: on construction, if a step breaks a rule of its op or of the slots, the
            result has another shape than `h`, or a limit is exceeded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["esper-plan/1"] = "esper-plan/1"
    kernel_id: Sha256
    signature: SiteSignature
    steps: Annotated[tuple[PlanStep, ...], Field(min_length=1, max_length=MAX_STEPS)]

    @cached_property
    def layout(self) -> tuple[StepLayout, ...]:
        """The layout of each step."""
        return _lay_out(self.signature, self.steps)

    @cached_property
    def parameters(self) -> dict[str, ParameterSpec]:
        """All parameters by full name, `<node>.<name>`, in order of use."""
        return {
            f"{step.node}.{parameter.name}": parameter
            for step, layout in zip(self.steps, self.layout, strict=True)
            for parameter in layout.parameters
        }

    @property
    def params(self) -> int:
        """Number of learnable scalars."""
        return sum(prod(parameter.shape) for parameter in self.parameters.values())

    @property
    def flops(self) -> int:
        """Forward FLOPs of one sample."""
        return sum(step.flops for step in self.layout)

    @model_validator(mode="after")
    def _holds(self) -> "KernelPlan":
        _check_slots(self.steps)
        result = self.layout[-1]
        if result.output != self.signature.h:
            raise ArtifactRefused(f"the result is {result.output}; h is {self.signature.h}")
        if not result.spec.zero_output_at_zero_weights:
            raise ArtifactRefused(
                f"a kernel cannot end in {result.spec.name}: it would not be a no-op at birth"
            )
        if self.params > MAX_PARAMETERS:
            raise ArtifactRefused(f"{self.params} parameters; at most {MAX_PARAMETERS}")
        if (elements := activations(self.layout)) > MAX_ACTIVATIONS:
            raise ArtifactRefused(f"{elements} activations a sample; at most {MAX_ACTIVATIONS}")
        if self.flops > MAX_FLOPS:
            raise ArtifactRefused(f"{self.flops} FLOPs a sample; at most {MAX_FLOPS}")
        return self

    def to_json(self) -> bytes:
        """Return the canonical JSON: equal plans have equal bytes in every process."""
        return encode(self)

    @classmethod
    def from_json(cls, value: bytes) -> "KernelPlan":
        """Return the plan of canonical JSON.

        Raises:
            ArtifactRefused: the JSON is not canonical, or the plan is invalid.
        """
        if len(value) > MAX_PLAN_BYTES:
            raise ArtifactRefused(f"the plan has {len(value)} bytes; at most {MAX_PLAN_BYTES}")
        try:
            plan = cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "plan"
            raise ArtifactRefused(f"not a plan: {where}: {first['msg']}") from error
        if plan.to_json() != value:
            raise ArtifactRefused("the plan is not in canonical form")
        return plan


def activations(layout: Sequence[StepLayout]) -> int:
    """Return the elements that all steps together allocate for one sample."""
    return sum(step.memory for step in layout)


def _lay_out(signature: SiteSignature, steps: Sequence[PlanStep]) -> tuple[StepLayout, ...]:
    _check_rank(signature)
    shapes: list[Shape] = [signature.x, signature.h]
    layout: list[StepLayout] = []
    for step in steps:
        try:
            layout.append(_lay_out_step(step, shapes))
        except BlueprintRejected as rejection:
            raise ArtifactRefused(f"step {step.node!r}: {rejection.message}") from rejection
        shapes.append(layout[-1].output)
    return tuple(layout)


def _check_rank(signature: SiteSignature) -> None:
    try:
        sizes_of(signature)
    except BlueprintRejected as rejection:
        raise ArtifactRefused(rejection.message) from rejection


def _lay_out_step(step: PlanStep, shapes: Sequence[Shape]) -> StepLayout:
    spec = op_named(step.op, internal=True)
    if not spec.min_inputs <= len(step.inputs) <= spec.max_inputs:
        raise ArtifactRefused(f"step {step.node!r}: {step.op} takes {spec.arity}")
    if step.args.keys() != spec.arguments.keys():
        raise ArtifactRefused(
            f"step {step.node!r}: arguments {sorted(step.args)}; "
            f"{step.op} has {sorted(spec.arguments)}"
        )
    for name, argument in spec.arguments.items():
        if not argument.admits(step.args[name]):
            raise ArtifactRefused(f"step {step.node!r}: {name}={step.args[name]!r} is not allowed")
    if max(step.inputs) >= len(shapes):
        raise ArtifactRefused(f"step {step.node!r} reads slot {max(step.inputs)} before it exists")
    inputs = tuple(shapes[slot] for slot in step.inputs)
    return StepLayout(
        spec=spec,
        inputs=inputs,
        output=spec.shape(inputs, step.args),
        parameters=spec.parameters(inputs, step.args),
        flops=spec.flops(inputs, step.args),
        memory=spec.memory(inputs, step.args),
    )


def _check_slots(steps: Sequence[PlanStep]) -> None:
    """Raise ArtifactRefused for duplicate names, reads of freed slots, and unread values."""
    nodes: set[str] = set()
    live, unread = {0, 1}, set[int]()
    for slot, step in enumerate(steps, start=FIRST_STEP_SLOT):
        if not _NODE.fullmatch(step.node) or step.node in nodes | {"x", "h"}:
            raise ArtifactRefused(
                f"step {step.node!r}: the name is invalid, reserved or a duplicate"
            )
        if not live.issuperset(step.inputs):
            raise ArtifactRefused(f"step {step.node!r} reads a slot that is empty or freed")
        if not (live - {0, 1}).issuperset(step.frees):
            raise ArtifactRefused(f"step {step.node!r} frees a slot that is empty or an input")
        nodes.add(step.node)
        live = (live - set(step.frees)) | {slot}
        unread = (unread - set(step.inputs)) | {slot}
    if len(unread) != 1:
        raise ArtifactRefused("the plan has steps whose values no step reads")
