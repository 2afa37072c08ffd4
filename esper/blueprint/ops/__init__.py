"""The ops: one table, one row each; everything Esper knows about an op stands in its row.

In: the shapes of the inputs of a node and its arguments. Out: the shape, parameters and cost of
its value, the function that computes it, and how a person would write it. To add an op, add a
row to the file of its family and its case to `tests/blueprint/test_ops.py`; nothing else in
Esper names an op. torch is imported by the `run` of a row, not by this package, so that
blueprints can be read and checked where torch is not wanted.
"""

from collections.abc import Mapping
from typing import Final

from esper.blueprint.ops import (
    arrange,
    attention,
    convolution,
    elementwise,
    fused,
    learned,
    linear,
    norm,
    pooling,
)
from esper.blueprint.ops.spec import Literals, OpSpec, ParameterSpec, Run, Shape, Source
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

_FAMILIES: Final = (
    linear,
    attention,
    convolution,
    elementwise,
    norm,
    pooling,
    arrange,
    learned,
    fused,
)

OPS: Final[Mapping[str, OpSpec]] = {row.name: row for family in _FAMILIES for row in family.ROWS}
"""Every op, by name; those that are `internal` are of plans only."""


def op_named(name: str, internal: bool = False) -> OpSpec:
    """Return the row of an op; an internal one only where `internal` says so.

    Raises:
        BlueprintRejected: there is no such op; the message lists those there are.
    """
    spec = OPS.get(name)
    if spec is None or (spec.internal and not internal):
        known = ", ".join(sorted(row.name for row in OPS.values() if not row.internal))
        raise BlueprintRejected(
            RejectionCode.UNKNOWN_OP, f"there is no op {name!r}; there are {known}"
        )
    return spec


__all__ = [
    "OPS",
    "Literals",
    "OpSpec",
    "ParameterSpec",
    "Run",
    "Shape",
    "Source",
    "op_named",
]
