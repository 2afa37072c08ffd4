"""A kernel as a person would write it: the source of a plain PyTorch module."""

from collections.abc import Iterator
from typing import Final

from esper.kernel.executor import attribute_of
from esper.kernel.plan import KernelPlan, PlanStep, StepLayout

SOURCE_IMPORTS: Final = "import torch\nfrom torch import nn\n"
"""What a file must import before the classes that `to_source` writes."""


def to_source(plan: KernelPlan, class_name: str) -> str:
    """Return the source of a class that computes what `Kernel` does, bit for bit.

    It needs `SOURCE_IMPORTS` before it. Its `forward(x, h)` and its state dict are those of
    `Kernel(plan, ...)`: the same keys, shapes and results, so `load_state_dict` of either takes
    the other's. A fresh instance starts from PyTorch's own random weights, not the kernel's.

    Raises:
        ValueError: `class_name` is no identifier.
    """
    if not class_name.isidentifier():
        raise ValueError(f"{class_name!r} cannot be the name of a class")
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
