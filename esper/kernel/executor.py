"""The executor: run a plan and its weights as a trainable module."""

import keyword
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Final

from torch import Tensor, nn

from esper.blueprint import Run
from esper.kernel.plan import FIRST_STEP_SLOT, KernelPlan, PlanStep, StepLayout

_RESERVED: Final = frozenset(
    {
        *dir(nn.Module()),
        *keyword.kwlist,
        *("kernel_id", "sha256", "params", "plan"),
        *("self", "x", "h", "torch", "nn"),
    }
)
"""Names with another meaning in a `Kernel` or in its generated source."""


def attribute_of(node: str) -> str:
    """Return the name of the submodule that holds a node's parameters.

    The name is the node's id, so that the plan's `mix.weight` is `mix.weight` in the state dict.
    Reserved ids get the suffix `_OP`; ids contain no capitals.
    """
    return f"{node}_OP" if node in _RESERVED else node


class Kernel(nn.Module):
    """A trainable kernel; the seed adds alpha times `forward(x, h)` to `h`.

    `x`, `h` and the result have a batch dimension before the shapes of the plan's signature; the
    result has the shape of `h`. Values are freed after their last use.
    """

    def __init__(self, plan: KernelPlan, tensors: Mapping[str, Tensor], sha256: str) -> None:
        """Build from an unpacked artifact with this `sha256`; the weights are copied."""
        super().__init__()
        self.plan = plan
        self.kernel_id = plan.kernel_id
        self.sha256 = sha256
        self.params = sum(prod(parameter.shape) for parameter in plan.parameters.values())
        self._blank = (None,) * len(plan.steps)
        self._addresses = self._register(tensors)
        self._program, self._training_program = _programs(plan)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the value of the last step; shapes (B, *x) and (B, *h) to (B, *h)."""
        modules: Any = self._modules
        # Look parameters up on every call: `.to()` and functional calls replace them.
        parameters = [modules[node]._parameters[name] for node, name in self._addresses]
        values: list[Any] = [x, h, *self._blank, *parameters]
        read = values.__getitem__
        program = self._training_program if self.training else self._program
        for slot, run, wanted, frees in program:
            values[slot] = run(*map(read, wanted))
            for freed in frees:
                values[freed] = None
        result: Tensor = values[slot]
        return result

    @property
    def is_no_op(self) -> bool:
        """Whether all weights of the last step are zero, so that the kernel changes nothing."""
        last = self.get_submodule(attribute_of(self.plan.steps[-1].node))
        return not any(bool(parameter.any()) for parameter in last.parameters())

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or pickle: the plan as JSON, without functions."""
        functions = {"_program": None, "_training_program": None}
        return {**self.__dict__, **functions, "plan": self.plan.to_json()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from `__getstate__`; the programs are rebuilt from the plan."""
        plan = KernelPlan.from_json(state["plan"])
        super().__setstate__({**state, "plan": plan})  # type: ignore[no-untyped-call]
        self._program, self._training_program = _programs(plan)

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
_Program = tuple[_Instruction, ...]


def _programs(plan: KernelPlan) -> tuple[_Program, _Program]:
    """Return the programs for evaluation and training; one object unless an op has two modes."""
    evaluating = tuple(layout.spec.run(step.args) for step, layout in _laid_out(plan))
    if all(layout.spec.run_training is None for layout in plan.layout):
        program = _program(plan, evaluating)
        return program, program
    training = tuple(
        (layout.spec.run_training or layout.spec.run)(step.args) for step, layout in _laid_out(plan)
    )
    return _program(plan, evaluating), _program(plan, training)


def _laid_out(plan: KernelPlan) -> Iterator[tuple[PlanStep, StepLayout]]:
    return zip(plan.steps, plan.layout, strict=True)


def _program(plan: KernelPlan, runs: tuple[Run, ...]) -> _Program:
    """Return each step as (slot to fill, function, operand indices, slots to free).

    Operand indices count the slots first, then all parameters in order.
    """
    program = []
    next_parameter = FIRST_STEP_SLOT + len(plan.steps)
    for slot, ((step, layout), run) in enumerate(
        zip(_laid_out(plan), runs, strict=True), start=FIRST_STEP_SLOT
    ):
        end = next_parameter + len(layout.parameters)
        operands = (*step.inputs, *range(next_parameter, end))
        program.append((slot, run, operands, step.frees))
        next_parameter = end
    return tuple(program)
