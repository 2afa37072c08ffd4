"""What a row of the table of ops says, and the parts that rows are made of.

Shapes are those of one sample, without the batch dimension. Costs are for one sample: FLOPs,
where a multiplication with its addition counts as two; memory, the elements an op allocates
going forward, 0 where its result is a view.
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
"""The arguments of a step by name; their types are those that the row's `arguments` admit."""

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
    """A learnable tensor of a node, which starts uniform within `centre` ± `bound`."""

    name: str
    shape: Shape
    centre: float = 0.0
    bound: float = 0.0


ParameterRule = Callable[[Sequence[Shape], Literals], tuple[ParameterSpec, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """An op as a person would write it in PyTorch, within the `forward` of a module.

    `call` is an expression over `{0}`, `{1}` ... (the inputs) and `{layer}`, or makes one of the
    shapes and arguments; `layer` writes the constructor of the submodule that holds the op's
    parameters, named as in its `ParameterSpec`s. Both may use `torch` and `nn`.
    """

    call: str | SourceRule
    layer: SourceRule | None = None

    def written(
        self, inputs: Sequence[Shape], args: Literals, operands: Sequence[str], layer: str
    ) -> str:
        """Return the expression with the names of its operands and layer filled in."""
        call = self.call if isinstance(self.call, str) else self.call(inputs, args)
        return call.format(*operands, layer=layer)


def no_parameters(inputs: Sequence[Shape], args: Literals) -> tuple[ParameterSpec, ...]:
    """Return the parameters of an op that learns nothing."""
    return ()


def nothing(inputs: Sequence[Shape], args: Literals) -> int:
    """Return the cost of what costs nothing."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """One op, of `fewest` to `most` inputs and one value.

    `shape` gives the shape of the result or refuses the inputs; `parameters` what it learns;
    `run` a function of the inputs and then the parameters, in the order of `parameters`, and
    `run_training` the one that replaces it in training mode, if another does.
    `zero_output_at_zero_weights` says that the result is zero where all parameters are: such an op can end a
    kernel that is an exact no-op at birth and still receives gradient. An `internal` op is put
    into plans by the optimiser; a blueprint cannot name it.
    """

    name: str
    summary: str
    shape: ShapeRule
    memory: Cost
    run: Callable[[Literals], Run]
    source: Source
    fewest: int = 1
    most: int = 1
    flops: Cost = nothing
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    parameters: ParameterRule = no_parameters
    run_training: Callable[[Literals], Run] | None = None
    zero_output_at_zero_weights: bool = False
    internal: bool = False

    @property
    def inputs(self) -> str:
        """How many inputs the op takes, in words for a message."""
        count = str(self.fewest) if self.fewest == self.most else f"{self.fewest} to {self.most}"
        return f"{count} input{'s' if self.most > 1 else ''}"


def mismatch(message: str) -> BlueprintRejected:
    """Return the refusal of shapes that an op cannot take."""
    return BlueprintRejected(RejectionCode.SHAPE_MISMATCH, message)


def uniform(name: str, shape: Shape, fan_in: int) -> ParameterSpec:
    """Start a weight so that the variance of its input is kept (LeCun et al. 1998)."""
    return ParameterSpec(name, shape, bound=sqrt(3 / fan_in))


def same_shape(inputs: Sequence[Shape], args: Literals) -> Shape:
    """Return the shape of an op that changes no shape."""
    return inputs[0]


def elements_of(shape: ShapeRule, each: int = 1) -> Cost:
    """Return the cost of an op that spends `each` on every element of its result."""

    def cost(inputs: Sequence[Shape], args: Literals) -> int:
        return each * prod(shape(inputs, args))

    return cost


def elements_in(each: int = 1) -> Cost:
    """Return the cost of an op that spends `each` on every element of its first input."""

    def cost(inputs: Sequence[Shape], args: Literals) -> int:
        return each * prod(inputs[0])

    return cost


def function(module: str, name: str) -> Callable[[Literals], Run]:
    """Return the `run` of an op that is a function of torch without arguments."""

    def run(args: Literals) -> Run:
        found: Run = getattr(import_module(module), name)
        return found

    return run


def functional(name: str) -> Any:
    """Return a function of `torch.nn.functional`; torch is imported when an op is first run."""
    return getattr(import_module("torch.nn.functional"), name)


def known_dim(shape: Sequence[int], dim: int) -> int:
    """Return the size of a dimension, counted from 0 without the batch, or refuse it."""
    if dim >= len(shape):
        raise mismatch(f"dim {dim} of {tuple(shape)}; its dims are 0 to {len(shape) - 1}")
    return shape[dim]
