"""Ops that torch computes faster in channels_last memory format."""

from collections.abc import Callable
from typing import Final

from esper.compiler.passes.rewrite import with_steps
from esper.kernel import KernelPlan, PlanStep, StepLayout

WIDE_KERNEL: Final = 5


def pool_by_channel(plan: KernelPlan) -> KernelPlan:
    """Return the plan with max pooling in channels_last format."""
    return _relaid(plan, lambda step, layout: step.op == "max_pool")


def depthwise_by_channel(plan: KernelPlan) -> KernelPlan:
    """Return the plan with large-kernel depthwise convolutions in channels_last format."""
    return _relaid(plan, _is_wide_and_depthwise)


def _is_wide_and_depthwise(step: PlanStep, layout: StepLayout) -> bool:
    if step.op != "conv2d":
        return False
    channels, kernel = layout.inputs[0][0], step.args["kernel"]
    assert isinstance(kernel, int)
    depthwise = step.args["groups"] == channels == layout.output[0] > 1
    return depthwise and kernel >= WIDE_KERNEL


def _relaid(plan: KernelPlan, fits: Callable[[PlanStep, StepLayout], bool]) -> KernelPlan:
    steps = [
        step.model_copy(update={"op": f"{step.op}_by_channel"}) if fits(step, layout) else step
        for step, layout in zip(plan.steps, plan.layout, strict=True)
    ]
    return plan if steps == list(plan.steps) else with_steps(plan, steps)
