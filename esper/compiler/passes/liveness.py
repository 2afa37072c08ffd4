"""Liveness: free every value after the last step that reads it."""

from esper.compiler.passes.rewrite import with_steps
from esper.kernel import FIRST_STEP_SLOT, KernelPlan


def free_early(plan: KernelPlan) -> KernelPlan:
    """Return the plan with each step's value freed after the last step that reads it."""
    last_reader = {
        slot: position for position, step in enumerate(plan.steps) for slot in step.inputs
    }
    steps = (
        step.model_copy(
            update={
                "frees": tuple(
                    slot
                    for slot in sorted(set(step.inputs))
                    if slot >= FIRST_STEP_SLOT and last_reader[slot] == position
                )
            }
        )
        for position, step in enumerate(plan.steps)
    )
    return with_steps(plan, tuple(steps))
