"""A blueprint: a graph of whitelisted ops over symbolic sizes, as its author writes it."""

from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from esper.topics.models.event import INT64, Event, Identifier
from esper.topics.models.run import SiteKind

MAX_NODES = 128
"""More nodes than any sensible kernel has; bounds the work a stranger's message can cause.

So does `fail_fast`: a list of a million faults takes no longer to refuse than its first.
"""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
ArgumentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Expression = Annotated[str, StringConstraints(max_length=64)]
Integer = Annotated[int, Field(ge=-INT64, lt=INT64)]


def _form(value: object) -> str | None:
    """Return which form of an argument or kind a value has, so that only that one is tried."""
    match value:
        case bool():
            return "flag"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list() | tuple():
            return "list"
        case _:
            return None


def _forms(expected: str) -> Discriminator:
    return Discriminator(
        _form,
        custom_error_type="no_such_form",
        custom_error_message=f"Input should be {expected}",
    )


Size = Annotated[
    Annotated[Integer, Tag("number")] | Annotated[Expression, Tag("text")],
    _forms("a whole number or a size expression"),
]
Argument = Annotated[
    Annotated[Integer | float, Tag("number")]
    | Annotated[bool, Tag("flag")]
    | Annotated[Expression, Tag("text")]
    | Annotated[tuple[Size, ...], Tag("list"), Field(max_length=8, fail_fast=True)],
    _forms("a number, true or false, a size expression, or a list of sizes"),
]


def _distinct(kinds: tuple[SiteKind, ...]) -> tuple[SiteKind, ...]:
    """Refuse a kind that is named twice."""
    if len(set(kinds)) < len(kinds):
        raise ValueError("a kind is named twice")
    return kinds


Kinds = Annotated[
    tuple[SiteKind, ...],
    Field(min_length=1, max_length=3, fail_fast=True, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]


class Node(Event):
    """One op; `inputs` are `x`, `h` or earlier nodes, `args` numbers, flags, expressions, lists."""

    id: NodeName
    op: Annotated[str, StringConstraints(max_length=32)]
    inputs: Annotated[tuple[NodeName, ...], Field(min_length=1, max_length=8, fail_fast=True)]
    args: Annotated[dict[ArgumentName, Argument], Field(max_length=16)] = {}


class Parameter(Event):
    """A number that makes a blueprint a family: from `least` to `most`, else the `default`.

    The default is a number, or a size expression, whose value is brought within the range.
    """

    default: Size
    least: Integer = 1
    most: Integer = 1 << 20


class Blueprint(Event):
    """A small network described by data; compiled once for every site signature it meets.

    `kind` names the kinds of site it serves, one or several; sizes are those that all of them
    have. `parameters` may be used like sizes; `values` chooses some of them.
    `nodes` are in order: a node reads only `x`, `h` and nodes before it. `output` names the node
    whose value, of the shape of `h`, is what the kernel adds to the site.
    """

    blueprint_id: Identifier
    kind: Annotated[
        Annotated[SiteKind, Tag("text")] | Annotated[Kinds, Tag("list")],
        _forms("a kind of site or a list of kinds"),
    ]
    summary: Annotated[str, StringConstraints(max_length=300)] = ""
    category: Identifier = "other"
    parameters: Annotated[dict[ArgumentName, Parameter], Field(max_length=16)] = {}
    values: Annotated[dict[ArgumentName, Integer], Field(max_length=16)] = {}
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES, fail_fast=True)]
    output: NodeName

    @property
    def kinds(self) -> tuple[SiteKind, ...]:
        """The kinds of site it serves."""
        return (self.kind,) if isinstance(self.kind, SiteKind) else self.kind
