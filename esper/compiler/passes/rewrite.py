"""Build a plan from changed steps; every pass ends here."""

from collections.abc import Mapping, Sequence

from esper.kernel import FIRST_STEP_SLOT, KernelPlan, PlanStep


def with_steps(plan: KernelPlan, steps: Sequence[PlanStep]) -> KernelPlan:
    """Return a validated plan with other steps."""
    return KernelPlan(kernel_id=plan.kernel_id, signature=plan.signature, steps=tuple(steps))


def without(
    plan: KernelPlan, instead: Mapping[int, int], steps: Sequence[PlanStep] | None = None
) -> KernelPlan:
    """Return the plan without the steps of some slots; readers of a slot read `instead[slot]`.

    `steps`, if given, replace the plan's steps one for one. Slots are renumbered, and frees are
    dropped. A slot without readers may map to itself.
    """
    slots = {slot: slot for slot in range(FIRST_STEP_SLOT)}
    kept: list[PlanStep] = []
    for slot, step in enumerate(steps or plan.steps, start=FIRST_STEP_SLOT):
        if slot in instead:
            slots[slot] = slots.get(instead[slot], slot)
            continue
        inputs = tuple(slots[read] for read in step.inputs)
        slots[slot] = FIRST_STEP_SLOT + len(kept)
        kept.append(step.model_copy(update={"inputs": inputs, "frees": ()}))
    return with_steps(plan, kept)


def readers(plan: KernelPlan) -> list[int]:
    """Return the number of reads of each slot; the plan's result has one more."""
    counts = [0] * (FIRST_STEP_SLOT + len(plan.steps))
    for step in plan.steps:
        for slot in step.inputs:
            counts[slot] += 1
    counts[-1] += 1
    return counts
