"""Making a plan of changed steps: what every pass ends with."""

from collections.abc import Mapping, Sequence

from esper.kernel import FIRST_STEP_SLOT, KernelPlan, PlanStep


def with_steps(plan: KernelPlan, steps: Sequence[PlanStep]) -> KernelPlan:
    """Return a plan of other steps, checked like any plan."""
    return KernelPlan(kernel_id=plan.kernel_id, signature=plan.signature, steps=tuple(steps))


def without(
    plan: KernelPlan, instead: Mapping[int, int], steps: Sequence[PlanStep] | None = None
) -> KernelPlan:
    """Return the plan without the steps of some slots; what read those reads others `instead`.

    A slot that nothing reads any more may stand for itself. `steps` are the plan's steps, or as
    many that replace them. Slots are numbered anew and frees are left out.
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
    """Return how often each slot is read; the plan's result counts as read once more."""
    counts = [0] * (FIRST_STEP_SLOT + len(plan.steps))
    for step in plan.steps:
        for slot in step.inputs:
            counts[slot] += 1
    counts[-1] += 1
    return counts
