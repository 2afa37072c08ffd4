"""A blueprint: a graph of whitelisted ops over symbolic sizes, as its author writes it."""

from typing import Annotated

from pydantic import Field, StringConstraints

from topics.models.event import INT64, Event, Identifier
from topics.models.run import SiteKind

MAX_NODES = 128
"""More nodes than any sensible kernel has; bounds the work a stranger's message can cause."""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
ArgumentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Expression = Annotated[str, StringConstraints(max_length=64)]
Integer = Annotated[int, Field(ge=-INT64, lt=INT64)]
Argument = Integer | float | bool | Expression


class Node(Event):
    """One op; `inputs` are `x`, `h` or earlier nodes, `args` numbers or size expressions."""

    id: NodeName
    op: Annotated[str, StringConstraints(max_length=32)]
    inputs: Annotated[tuple[NodeName, ...], Field(min_length=1, max_length=8)]
    args: Annotated[dict[ArgumentName, Argument], Field(max_length=16)] = {}


class Blueprint(Event):
    """A small network described by data; compiled once for every site signature it meets.

    `nodes` are in order: a node reads only `x`, `h` and nodes before it. `output` names the node
    whose value, of the shape of `h`, is what the kernel adds to the site.
    """

    blueprint_id: Identifier
    kind: SiteKind
    summary: Annotated[str, StringConstraints(max_length=300)] = ""
    category: Identifier = "other"
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES)]
    output: NodeName
