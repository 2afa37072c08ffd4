"""Blueprints: the language of kernels, a graph of whitelisted ops over symbolic sizes.

In: a `esper.topics.models.Blueprint`, from anyone. Out: whether the graph is well formed (`check`),
its shapes and costs at a site (`resolve`), a member of its family (`member`), the id of its kernel
at a site (`kernel_id`), and the kernels that are planned for a run (`requests_for`). The package
also holds the table of ops (`OPS`) and the blueprints that ship with Esper (`shipped`). Only
running an op imports torch.
"""

from esper.blueprint.arguments import Argument, ChoiceArgument
from esper.blueprint.catalog import shipped, shipped_named
from esper.blueprint.expressions import sizes_of
from esper.blueprint.family import member
from esper.blueprint.identity import COMPILER_VERSION, kernel_id, request_for
from esper.blueprint.ops import OPS, OpSpec, ParameterSpec, Run, Shape, op_named
from esper.blueprint.planning import (
    ANONYMOUS,
    MAX_BLUEPRINTS,
    PlanLimits,
    Submission,
    Submissions,
    limits_of,
    planned,
    publisher_of,
    requests_for,
    signatures_of,
    withdrawn_id,
)
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.blueprint.resolution import (
    MAX_ACTIVATIONS,
    MAX_FLOPS,
    MAX_PARAMETERS,
    Resolved,
    ResolvedNode,
    resolve,
)
from esper.blueprint.schema import author_schema
from esper.blueprint.validation import check

__all__ = [
    "ANONYMOUS",
    "COMPILER_VERSION",
    "MAX_ACTIVATIONS",
    "MAX_BLUEPRINTS",
    "MAX_FLOPS",
    "MAX_PARAMETERS",
    "OPS",
    "Argument",
    "BlueprintRejected",
    "ChoiceArgument",
    "OpSpec",
    "ParameterSpec",
    "PlanLimits",
    "RejectionCode",
    "Resolved",
    "ResolvedNode",
    "Run",
    "Shape",
    "Submission",
    "Submissions",
    "author_schema",
    "check",
    "kernel_id",
    "limits_of",
    "member",
    "op_named",
    "planned",
    "publisher_of",
    "request_for",
    "requests_for",
    "resolve",
    "shipped",
    "shipped_named",
    "signatures_of",
    "sizes_of",
    "withdrawn_id",
]
