"""The executor: a plan and its weights as a trainable module."""

import keyword
from collections.abc import Mapping
from math import prod
from typing import Any, Final

from torch import Tensor, nn

from esper.blueprint.ops import Run
from esper.kernel.plan import FIRST_STEP_SLOT, Plan

_TAKEN: Final = frozenset(
    {
        *dir(nn.Module()),
        *keyword.kwlist,
        *("kernel_id", "sha256", "params", "plan"),
        *("self", "x", "h", "torch", "nn"),
    }
)
"""Names that mean something else in a `Kernel` or in the source written from it."""


def attribute_of(node: str) -> str:
    """Return the name under which a node's parameters hang in a module.

    It is the node's own id, so that the parameter `mix.weight` of a plan is `mix.weight` in the
    state dict; where the id means something else there, `_OP` follows it (ids have no capitals).
    """
    return f"{node}_OP" if node in _TAKEN else node


class Kernel(nn.Module):
    """A kernel that runs and learns: `forward(x, h)` gives what is added, weighted, to `h`.

    `x` and `h` have a batch dimension before the shapes of the plan's signature, and so has the
    result, in the shape of `h`. Values are dropped after their last use.
    """

    def __init__(self, plan: Plan, tensors: Mapping[str, Tensor], sha256: str) -> None:
        """Build from an unpacked artifact; the weights are copied, `sha256` is the artifact's."""
        super().__init__()
        self.plan = plan
        self.kernel_id = plan.kernel_id
        self.sha256 = sha256
        self.params = sum(prod(parameter.shape) for parameter in plan.parameters.values())
        self._blank = (None,) * len(plan.steps)
        self._addresses = self._register(tensors)
        self._program = _program(plan)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the value of the last step; shapes (B, *x) and (B, *h) to (B, *h)."""
        modules: Any = self._modules
        # Parameters are looked up on every call: `.to()` and functional calls replace them.
        parameters = [modules[node]._parameters[name] for node, name in self._addresses]
        values: list[Any] = [x, h, *self._blank, *parameters]
        read = values.__getitem__
        for slot, run, wanted, frees in self._program:
            values[slot] = run(*map(read, wanted))
            for freed in frees:
                values[freed] = None
        result: Tensor = values[slot]
        return result

    def _register(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[str, str], ...]:
        addresses = []
        for full_name in self.plan.parameters:
            node, name = full_name.split(".")
            attribute = attribute_of(node)
            if attribute not in self._modules:
                self.add_module(attribute, nn.Module())
            parameter = nn.Parameter(tensors[full_name].detach().clone())
            self.get_submodule(attribute).register_parameter(name, parameter)
            addresses.append((attribute, name))
        return tuple(addresses)


_Instruction = tuple[int, Run, tuple[int, ...], tuple[int, ...]]


def _program(plan: Plan) -> tuple[_Instruction, ...]:
    """Return each step as (slot to fill, function, positions of its operands, slots to free).

    Operands are positions among the slots followed by all parameters in order.
    """
    program = []
    next_parameter = FIRST_STEP_SLOT + len(plan.steps)
    for slot, (step, layout) in enumerate(
        zip(plan.steps, plan.layout, strict=True), start=FIRST_STEP_SLOT
    ):
        end = next_parameter + len(layout.parameters)
        operands = (*step.inputs, *range(next_parameter, end))
        program.append((slot, layout.spec.run(step.args), operands, step.frees))
        next_parameter = end
    return tuple(program)
