"""A blueprint: a graph of whitelisted ops over symbolic sizes, as its author writes it."""

from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag

from esper.topics.models.event import INT64, Event, Identifier
from esper.topics.models.run import SiteKind

MAX_NODES = 128
"""Most nodes of a blueprint; bounds the work that a message from outside can cause.

`fail_fast` bounds it too: a list of a million invalid items is refused at the first one.
"""

NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
ArgumentName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Expression = Annotated[str, StringConstraints(max_length=64)]
Integer = Annotated[int, Field(ge=-INT64, lt=INT64)]


def _value_tag(value: object) -> str | None:
    """Return the tag of the union member to validate a value against."""
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


def _one_of(expected: str) -> Discriminator:
    """Return a discriminator whose error names the accepted forms of a value."""
    return Discriminator(
        _value_tag,
        custom_error_type="no_such_form",
        custom_error_message=f"Input should be {expected}",
    )


Size = Annotated[
    Annotated[Integer, Tag("number")] | Annotated[Expression, Tag("text")],
    _one_of("a whole number or a size expression"),
]
Argument = Annotated[
    Annotated[Integer | float, Tag("number")]
    | Annotated[bool, Tag("flag")]
    | Annotated[Expression, Tag("text")]
    | Annotated[tuple[Size, ...], Tag("list"), Field(max_length=8, fail_fast=True)],
    _one_of("a number, true or false, a size expression, or a list of sizes"),
]


def _distinct(kinds: tuple[SiteKind, ...]) -> tuple[SiteKind, ...]:
    """Return the kinds.

    Raises:
        ValueError: the list names a kind twice.
    """
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"{', '.join(kinds)} names a kind twice; name it once")
    return kinds


Kinds = Annotated[
    tuple[SiteKind, ...],
    Field(min_length=1, max_length=3, fail_fast=True, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]


class Node(Event):
    """One op of a blueprint.

    `inputs` are `x`, `h` or earlier nodes; `args` are numbers, flags, size expressions or lists.
    """

    id: NodeName
    op: Annotated[str, StringConstraints(max_length=32)]
    inputs: Annotated[tuple[NodeName, ...], Field(min_length=1, max_length=8, fail_fast=True)]
    args: Annotated[dict[ArgumentName, Argument], Field(max_length=16)] = {}


class Parameter(Event):
    """An integer that makes a blueprint a family: from `least` to `most`, `default` if not chosen.

    The default is a number or a size expression, whose value is clamped to the range.
    """

    default: Size
    least: Integer = 1
    most: Integer = 1 << 20


class Blueprint(Event):
    """A small network as data, compiled once for every site signature that it fits.

    `kind` is one kind of site or a list of kinds; a blueprint for several kinds may use only the
    sizes that all of them have. `parameters` may be used like sizes; `values` sets some of them.
    `nodes` are in topological order: a node reads only `x`, `h` and earlier nodes. `output` names
    the node whose value, of the shape of `h`, the kernel adds to the site's output.
    """

    blueprint_id: Identifier
    kind: Annotated[
        Annotated[SiteKind, Tag("text")] | Annotated[Kinds, Tag("list")],
        _one_of("a kind of site or a list of kinds"),
    ]
    summary: Annotated[str, StringConstraints(max_length=300)] = ""
    category: Identifier = "other"
    parameters: Annotated[dict[ArgumentName, Parameter], Field(max_length=16)] = {}
    values: Annotated[dict[ArgumentName, Integer], Field(max_length=16)] = {}
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES, fail_fast=True)]
    output: NodeName

    @property
    def kinds(self) -> tuple[SiteKind, ...]:
        """The kinds of site that the blueprint serves."""
        return (self.kind,) if isinstance(self.kind, SiteKind) else self.kind
