"""Tables and JSON documents of `esper blueprint`: the ops, and a blueprint at a site."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from esper.blueprint import Argument, ChoiceArgument, OpSpec, Resolved, ResolvedNode
from esper.topics.models import Blueprint
from esper.workers.cli.site import site_text

ELEMENT_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
OPS_HEAD: Final = """# The ops

Written by `make contracts` from the table of ops; do not edit.
[What a blueprint is](blueprints.md).

Shapes are those of one sample. An argument without a value must be given; sizes may be expressions,
and lists have such sizes as members. Dims are counted from 0, the batch left out.

| op | inputs | arguments | result |
| --- | --- | --- | --- |"""

KIBIBYTE: Final = 1024
THOUSAND: Final = 1000


class SiteTable(NamedTuple):
    """A blueprint at a site as a table and as a JSON document."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    document: dict[str, Any]


def site_rows(resolved: Resolved) -> SiteTable:
    """Return op, output shape and cost of each node and the totals, for one sample."""
    names = ["x", "h", *(node.id for node in resolved.nodes)]
    element = ELEMENT_BYTES[resolved.signature.dtype]
    rows = [
        (
            node.id,
            _call(node, names),
            _shape(node.output),
            f"{node.params:,}",
            _short(node.flops, THOUSAND, ("", " k", " M", " G")),
            _short(node.memory * element, KIBIBYTE, (" B", " KiB", " MiB", " GiB")),
        )
        for node in resolved.nodes
    ]
    totals = (
        "total",
        "",
        "",
        f"{resolved.params:,}",
        _short(resolved.flops, THOUSAND, ("", " k", " M", " G")),
        _short(resolved.memory * element, KIBIBYTE, (" B", " KiB", " MiB", " GiB")),
    )
    return SiteTable(
        ("node", "op", "output", "params", "FLOPs", "memory"),
        [*rows, totals],
        _document(resolved, names, element),
    )


def as_json(blueprint: Blueprint, sites: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document of `check --json` for a valid blueprint."""
    return {
        "blueprint_id": blueprint.blueprint_id,
        "kinds": list(blueprint.kinds),
        "nodes": len(blueprint.nodes),
        "parameters": {
            name: parameter.model_dump() for name, parameter in blueprint.parameters.items()
        },
        "values": blueprint.values,
        "sites": list(sites),
    }


def parameter_lines(blueprint: Blueprint) -> Iterator[str]:
    """Yield one line per parameter: its range, its default, and its value if set."""
    for name, parameter in blueprint.parameters.items():
        value = blueprint.values.get(name)
        chosen = "" if value is None else f"; set to {value}"
        yield f"  {name}: {parameter.least} to {parameter.most}, by default " + (
            f"{parameter.default}{chosen}"
        )


def ops_rows(rows: Sequence[OpSpec]) -> list[tuple[str, str, str, str]]:
    """Return name, number of inputs, arguments and summary of each op."""
    return [
        (
            row.name,
            row.input_range,
            ", ".join(_argument(name, argument) for name, argument in row.arguments.items()),
            row.summary,
        )
        for row in rows
    ]


def ops_page(rows: Sequence[OpSpec]) -> str:
    """Return the table of ops as a Markdown page, for `make contracts`."""
    lines = (
        f"| `{name}` | {inputs} | {arguments and f'`{arguments}`'} | {summary} |"
        for name, inputs, arguments, summary in ops_rows(rows)
    )
    return "\n".join([OPS_HEAD, *lines]) + "\n"


def ops_as_json(rows: Sequence[OpSpec]) -> list[dict[str, Any]]:
    """Return the table of ops as a JSON document."""
    return [
        {
            "op": row.name,
            "fewest_inputs": row.min_inputs,
            "most_inputs": row.max_inputs,
            "arguments": {
                name: {"expected": argument.expected, "default": argument.default}
                for name, argument in row.arguments.items()
            },
            "summary": row.summary,
        }
        for row in rows
    ]


def _argument(name: str, argument: Argument) -> str:
    default = "" if argument.default is None else f"={_value(argument.default)}"
    options = argument.options if isinstance(argument, ChoiceArgument) else ()
    return f"{name}{default}" + (f" of {', '.join(map(str, options))}" if options else "")


def _call(node: ResolvedNode, names: Sequence[str]) -> str:
    """Return a node as a call: op, inputs, and the arguments that differ from their defaults."""
    defaults = {name: argument.default for name, argument in node.spec.arguments.items()}
    read = [names[slot] for slot in node.inputs]
    given = [f"{key}={_value(value)}" for key, value in node.args.items() if value != defaults[key]]
    return f"{node.spec.name}({', '.join([*read, *given])})"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _short(number: int, step: int, units: Sequence[str]) -> str:
    """Return a number in the largest unit that is not above it; units differ by `step`."""
    value, unit = float(number), units[0]
    for larger in units[1:]:
        if value < step:
            break
        value, unit = value / step, larger
    return f"{value:.3g}{unit}" if unit != units[0] else f"{number}{unit}"


def _document(resolved: Resolved, names: Sequence[str], element: int) -> dict[str, Any]:
    return {
        "site": site_text(resolved.signature),
        "values": dict(resolved.values),
        "nodes": [
            {
                "id": node.id,
                "op": node.spec.name,
                "inputs": [names[slot] for slot in node.inputs],
                "args": dict(node.args),
                "output": list(node.output),
                "params": node.params,
                "flops": node.flops,
                "memory_bytes": node.memory * element,
            }
            for node in resolved.nodes
        ],
        "params": resolved.params,
        "flops": resolved.flops,
        "memory_bytes": resolved.memory * element,
    }
