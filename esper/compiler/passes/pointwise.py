"""Replace convolutions of kernel 1 by matrix products, which are faster."""

from collections.abc import Callable
from typing import Final

from esper.compiler.passes.rewrite import with_steps
from esper.kernel import KernelPlan, PlanStep, StepLayout

_PLAIN: Final = {"kernel": 1, "groups": 1, "stride": 1}


def conv_at_one(plan: KernelPlan) -> KernelPlan:
    """Return the plan with linear maps for those on one position, as in squeeze-excite."""
    return _replace(plan, "conv2d_at_one", lambda layout: layout.inputs[0][1:] == (1, 1))


def conv_as_product(plan: KernelPlan) -> KernelPlan:
    """Return the plan with batched matrix products for those on feature maps.

    The backward pass allocates one weight gradient per sample. Where a map has fewer positions
    than input and output channels, those gradients are larger than the maps, and the convolution
    is faster.
    """
    return _replace(plan, "conv2d_as_product", _has_many_positions)


def _has_many_positions(layout: StepLayout) -> bool:
    (channels, height, width), out = layout.inputs[0], layout.output[0]
    return height * width >= min(channels, out) and height * width > 1


def _replace(plan: KernelPlan, op: str, fits: Callable[[StepLayout], bool]) -> KernelPlan:
    steps = [
        _as(op, step) if _is_pointwise(step) and fits(layout) else step
        for step, layout in zip(plan.steps, plan.layout, strict=True)
    ]
    return plan if steps == list(plan.steps) else with_steps(plan, steps)


def _is_pointwise(step: PlanStep) -> bool:
    return step.op == "conv2d" and all(step.args[name] == value for name, value in _PLAIN.items())


def _as(op: str, step: PlanStep) -> PlanStep:
    args = {"out": step.args["out"], "bias": step.args["bias"]}
    return step.model_copy(update={"op": op, "args": args, "frees": ()})
