"""Common-subexpression elimination."""

from esper.compiler.passes.rewrite import without
from esper.kernel import FIRST_STEP_SLOT, KernelPlan, PlanStep

Key = tuple[str, tuple[int, ...], tuple[tuple[str, object], ...]]


def share_common(plan: KernelPlan) -> KernelPlan:
    """Return the plan with equal steps merged into the first of them.

    Steps with parameters or random numbers are never merged. The last step stays, because it
    makes the kernel zero at birth.
    """
    first: dict[Key, int] = {}
    instead: dict[int, int] = {}
    for slot, (step, layout) in enumerate(
        zip(plan.steps[:-1], plan.layout, strict=False), start=FIRST_STEP_SLOT
    ):
        if layout.parameters or layout.spec.run_training is not None:
            continue
        key = _key(step, instead)
        if key in first:
            instead[slot] = first[key]
        first.setdefault(key, slot)
    return without(plan, instead) if instead else plan


def _key(step: PlanStep, instead: dict[int, int]) -> Key:
    inputs = tuple(instead.get(slot, slot) for slot in step.inputs)
    return step.op, inputs, tuple(sorted(step.args.items()))
