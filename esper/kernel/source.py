"""Generate a kernel's source as a plain PyTorch module."""

from collections.abc import Iterator
from typing import Final

from esper.kernel.executor import attribute_of
from esper.kernel.plan import KernelPlan, PlanStep, StepLayout

SOURCE_IMPORTS: Final = "import torch\nfrom torch import nn\n"
"""The imports that the classes of `to_source` need."""


def to_source(plan: KernelPlan, class_name: str) -> str:
    """Return the source of a class whose results equal those of `Kernel`, bit for bit.

    The source needs `SOURCE_IMPORTS`. `forward(x, h)` and the state dict have the same keys and
    shapes as those of `Kernel(plan, ...)`, so either loads the other's state dict. A new instance
    starts from PyTorch's random weights, not the kernel's.

    Raises:
        ValueError: `class_name` is not an identifier.
    """
    if not class_name.isidentifier():
        raise ValueError(f"{class_name!r} is not a valid class name")
    lines = [
        f"class {class_name}(nn.Module):",
        f'    """Kernel {plan.kernel_id[:12]}: x {plan.signature.x}, h {plan.signature.h}."""',
        "",
        "    def __init__(self):",
        "        super().__init__()",
        *(f"        {line}" for line in _layers(plan)),
        "",
        "    def forward(self, x, h):",
        *(f"        {line}" for line in _statements(plan)),
    ]
    return "\n".join(lines) + "\n"


def _layers(plan: KernelPlan) -> Iterator[str]:
    for step, layout in zip(plan.steps, plan.layout, strict=True):
        if (layer := layout.spec.source.layer) is not None:
            yield f"self.{attribute_of(step.node)} = {layer(layout.inputs, step.args)}"


def _statements(plan: KernelPlan) -> Iterator[str]:
    values = ["x", "h"]
    for step, layout in zip(plan.steps, plan.layout, strict=True):
        yield f"{attribute_of(step.node)} = {_call(step, layout, values)}"
        values.append(attribute_of(step.node))
    yield f"return {values[-1]}"


def _call(step: PlanStep, layout: StepLayout, values: list[str]) -> str:
    operands = [values[slot] for slot in step.inputs]
    layer = f"self.{attribute_of(step.node)}"
    return layout.spec.source.render(layout.inputs, step.args, operands, layer)
