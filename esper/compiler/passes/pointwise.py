"""Convolutions with a kernel of 1, which are matrix products and cost more as convolutions."""

from collections.abc import Callable
from typing import Final

from esper.compiler.passes.rewrite import with_steps
from esper.kernel import KernelPlan, PlanStep, StepLayout

_PLAIN: Final = {"kernel": 1, "groups": 1, "stride": 1}


def conv_at_one(plan: KernelPlan) -> KernelPlan:
    """Return the plan with those on a single position, as squeeze-excite has, as linear maps."""
    return _replace(plan, "conv2d_at_one", lambda layout: layout.inputs[0][1:] == (1, 1))


def conv_as_product(plan: KernelPlan) -> KernelPlan:
    """Return the plan with those on maps as batched matrix products.

    Going back, the products leave one gradient of the weight for each sample, before these are
    added up. Where a map has fewer positions than both sides have channels, those would be
    larger than the maps themselves, and slower than the convolution.
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
