"""The language kernels are written in: a graph of whitelisted ops over symbolic sizes.

In: a `esper.topics.models.Blueprint`, as anyone may publish it. Out: the assurance that it is well
formed (`check`), what it becomes at a site (`resolve`), members of its family (`member`), its
identity at a site (`kernel_id`), the table of ops that gives each node its meaning (`ops`), and
the blueprints that ship with Esper. Importing this package, and using all
of it but running an op, does not import torch.
"""

from esper.blueprint.catalog import shipped, shipped_named
from esper.blueprint.check import check
from esper.blueprint.family import member
from esper.blueprint.identity import COMPILER_VERSION, kernel_id, request_for, requests_for
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.blueprint.resolve import Resolved, resolve

__all__ = [
    "COMPILER_VERSION",
    "BlueprintRejected",
    "RejectionCode",
    "Resolved",
    "check",
    "kernel_id",
    "member",
    "request_for",
    "requests_for",
    "resolve",
    "shipped",
    "shipped_named",
]
