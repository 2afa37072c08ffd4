"""The optimiser: the passes that pay off on the plan's device, then liveness."""

from esper.compiler.passes import PASSES, Pass
from esper.compiler.passes.liveness import free_early
from esper.kernel import ArtifactRefused, KernelPlan


class KernelOptimizer:
    """Optimise plans; equal plans give equal results."""

    def optimize(self, plan: KernelPlan) -> KernelPlan:
        """Return a faster plan with the same parameters and, up to rounding, the same result.

        Each value is freed after the last step that reads it.
        """
        for optimizer_pass in PASSES:
            if plan.signature.device in optimizer_pass.devices:
                plan = _improved(plan, optimizer_pass)
        return free_early(plan)


def _improved(plan: KernelPlan, optimizer_pass: Pass) -> KernelPlan:
    """Return the plan after a pass, or unchanged if the pass would exceed a limit."""
    try:
        return optimizer_pass.run(plan)
    except ArtifactRefused:
        return plan
