"""The fields of a row in the table of ops, and the functions that rows share.

Shapes are those of one sample, without the batch dimension. Costs are for one sample: FLOPs,
where a multiply-add counts as two; memory, the elements that an op allocates in the forward pass,
0 where its result is a view.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import prod, sqrt
from typing import TYPE_CHECKING, Any, Final

from esper.blueprint.arguments import Argument
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Literals = Mapping[str, Any]
"""The arguments of a step by name, with the types that the row's `arguments` admit."""

Run = Callable[..., "Tensor"]
ShapeRule = Callable[[Sequence[Shape], Literals], Shape]
Cost = Callable[[Sequence[Shape], Literals], int]
SourceRule = Callable[[Sequence[Shape], Literals], str]

FEATURE_MAP_RANK: Final = 3
SEQUENCE_RANK: Final = 2
MAX_RANK: Final = 4
NORM_EPSILON: Final = 1e-5


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A learnable tensor of a node, initialised uniformly within `mean` ± `bound`."""

    name: str
    shape: Shape
    mean: float = 0.0
    bound: float = 0.0


ParameterRule = Callable[[Sequence[Shape], Literals], tuple[ParameterSpec, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """An op as PyTorch source within the `forward` of a module; it may use `torch` and `nn`.

    `call` is an expression with `{0}`, `{1}` ... for the inputs and `{layer}` for the submodule,
    or a function that returns one for given shapes and arguments. `layer` returns the constructor
    of the submodule that holds the op's parameters, under the names of its `ParameterSpec`s.
    """

    call: str | SourceRule
    layer: SourceRule | None = None

    def template(self, inputs: Sequence[Shape], args: Literals) -> str:
        """Return the expression with its placeholders."""
        return self.call if isinstance(self.call, str) else self.call(inputs, args)

    def render(
        self, inputs: Sequence[Shape], args: Literals, operands: Sequence[str], layer: str
    ) -> str:
        """Return the expression with the names of its operands and layer filled in."""
        return self.template(inputs, args).format(*operands, layer=layer)


def no_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    """Return no parameters: the op learns nothing."""
    return ()


def no_cost(inputs: Sequence[Shape], args: Literals) -> int:
    """Return a cost of 0."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """One op: a row of the table.

    `shape` returns the shape of the result, or raises `mismatch(...)` for inputs that do not fit.
    `parameters` returns the learnable tensors. `run` returns a function of the inputs followed by
    the parameters, in the order of `parameters`; `run_training`, if present, replaces `run` in
    training mode. With `zero_output_at_zero_weights` the result is 0 where all parameters are 0:
    only such an op may end a kernel, which is then a no-op at birth and still receives gradient.
    Only the optimiser writes an `internal` op; a blueprint cannot name it.
    """

    name: str
    summary: str
    shape: ShapeRule
    memory: Cost
    run: Callable[[Literals], Run]
    source: Source
    min_inputs: int = 1
    max_inputs: int = 1
    flops: Cost = no_cost
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    parameters: ParameterRule = no_parameters
    run_training: Callable[[Literals], Run] | None = None
    zero_output_at_zero_weights: bool = False
    internal: bool = False

    @property
    def input_range(self) -> str:
        """The number of inputs: `2`, or `2 to 8`."""
        if self.min_inputs == self.max_inputs:
            return str(self.min_inputs)
        return f"{self.min_inputs} to {self.max_inputs}"

    @property
    def arity(self) -> str:
        """The number of inputs in words, for a message."""
        return f"{self.input_range} input{'s' if self.max_inputs > 1 else ''}"


def mismatch(message: str) -> BlueprintRejected:
    """Return the rejection for shapes that an op cannot take."""
    return BlueprintRejected(RejectionCode.SHAPE_MISMATCH, message)


def lecun_uniform(name: str, shape: Shape, fan_in: int) -> ParameterSpec:
    """Return a weight whose initial values preserve the input's variance (LeCun et al. 1998)."""
    return ParameterSpec(name, shape, bound=sqrt(3 / fan_in))


def same_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    """Return the shape of the first input."""
    return inputs[0]


def elements_of(shape: ShapeRule, per_element: int = 1) -> Cost:
    """Return a cost of `per_element` for every element of the result."""

    def cost(inputs: Sequence[Shape], args: Literals) -> int:
        return per_element * prod(shape(inputs, args))

    return cost


def elements_in(per_element: int = 1) -> Cost:
    """Return a cost of `per_element` for every element of the first input."""

    def cost(inputs: Sequence[Shape], args: Literals) -> int:
        return per_element * prod(inputs[0])

    return cost


def torch_function(module: str, name: str) -> Callable[[Literals], Run]:
    """Return the `run` of an op without arguments that is a function of a torch module."""

    def run(args: Literals) -> Run:
        found: Run = getattr(import_module(module), name)
        return found

    return run


def functional(name: str) -> Any:
    """Return a function of `torch.nn.functional`; torch is imported when an op is first run."""
    return getattr(import_module("torch.nn.functional"), name)


def dim_size(shape: Sequence[int], dim: int) -> int:
    """Return the size of a dim, counted from 0 without the batch, or raise a mismatch."""
    if dim >= len(shape):
        raise mismatch(f"dim {dim} of {tuple(shape)}; its dims are 0 to {len(shape) - 1}")
    return shape[dim]
