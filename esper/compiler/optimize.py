"""Passes over a plan. Each keeps results, gradients and parameters as they are."""

from esper.kernel.plan import FIRST_STEP_SLOT, Plan


class KernelOptimizer:
    """Improves plans; pure, so that equal plans stay equal."""

    def optimize(self, plan: Plan) -> Plan:
        """Return the plan with each step's value freed after the last step that reads it."""
        last_reader = {
            slot: position for position, step in enumerate(plan.steps) for slot in step.inputs
        }
        steps = tuple(
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
        return Plan(kernel_id=plan.kernel_id, signature=plan.signature, steps=steps)
