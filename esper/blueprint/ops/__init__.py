"""The ops: one table, one row per op; no other module of Esper needs to name an op.

In: the shapes of a node's inputs, and its arguments. Out: the shape, parameters and cost of its
value, the function that computes it, and its PyTorch source.

To add an op, add an `OpSpec` to `ROWS` in the file of its family here, and a case to
`tests/blueprint/cases.py`; for a new family, add its module to `_FAMILIES` below as well. Then run
`make contracts`, which writes docs/ops.md and the author's schema, and `pytest tests/blueprint`.
The `run` of a row imports torch; this package does not, because planners check blueprints
without torch.
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
"""Every op by name; `internal` ops occur in plans only."""


def op_named(name: str, internal: bool = False) -> OpSpec:
    """Return the row of an op; internal ops only with `internal`.

    Raises:
        BlueprintRejected: no op has this name; the message lists the known names.
    """
    spec = OPS.get(name)
    if spec is None or (spec.internal and not internal):
        known = ", ".join(sorted(row.name for row in OPS.values() if not row.internal))
        raise BlueprintRejected(
            RejectionCode.UNKNOWN_OP, f"unknown op {name!r}; the ops are {known}"
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
