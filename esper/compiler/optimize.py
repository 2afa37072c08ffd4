"""The optimiser: the passes that pay on the plan's device, then an end for every value."""

from esper.compiler.passes import PASSES, Pass
from esper.compiler.passes.liveness import free_early
from esper.kernel import ArtifactRefused, KernelPlan


class KernelOptimizer:
    """Improves plans; pure, so that equal plans stay equal."""

    def optimize(self, plan: KernelPlan) -> KernelPlan:
        """Return a plan of the same parameters that computes the same, up to rounding, faster.

        Each value is freed after the last step that reads it.
        """
        for each in PASSES:
            if plan.signature.device in each.devices:
                plan = _improved(plan, each)
        return free_early(plan)


def _improved(plan: KernelPlan, each: Pass) -> KernelPlan:
    """Return the plan after a pass, or as it is where the pass would lead it over a limit."""
    try:
        return each.run(plan)
    except ArtifactRefused:
        return plan
