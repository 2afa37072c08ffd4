"""The JSON Schema of a blueprint for its author, generated from the model and the table of ops.

It is stricter than the topic: it lists the ops with the ranges of their arguments, and forbids
fields that Esper would ignore, so that an editor marks a mistake while the author types.
"""

from collections.abc import Mapping
from typing import Any, Final

from esper.blueprint.arguments import (
    Argument,
    ChoiceArgument,
    FlagArgument,
    NumberArgument,
    SizeArgument,
    SizeListArgument,
)
from esper.blueprint.expressions import MAX_LENGTH, MAX_SIZE
from esper.blueprint.ops import OPS, OpSpec
from esper.topics.models import Blueprint

DRAFT_7: Final = "http://json-schema.org/draft-07/schema#"
NAMED: Final = ("parameters", "values")
"""Fields whose keys are parameter names."""

EXPRESSION: Final = "#/definitions/Expression"

Schema = dict[str, Any]

FIELDS: Final = {
    "blueprint_id": "Unique name: lower-case letters, digits, dots and dashes.",
    "kind": "The kind of site, or a list of kinds; expressions may use the sizes common to them.",
    "summary": "One sentence: its purpose and its source.",
    "category": "One word for the type of network; selection policies may prefer a category.",
    "parameters": "Named integers that make it a family; expressions may use them like sizes.",
    "values": "Chosen parameter values; other parameters take their defaults.",
    "nodes": "The ops in order of computation; a node reads x, h or earlier nodes.",
    "output": "The last node, of the shape of h; the kernel adds its value to h.",
}
NODE_FIELDS: Final = {
    "id": "Name of the node's value; x and h are reserved.",
    "inputs": "Values to read: x (the site's input), h (its output), or ids of earlier nodes.",
}


def author_schema() -> Schema:
    """Return the self-contained schema (draft 7)."""
    schema = Blueprint.model_json_schema(ref_template="#/definitions/{model}")
    definitions: dict[str, Schema] = schema.pop("$defs")
    rows = [row for row in OPS.values() if not row.internal]
    definitions["Node"] = _node(definitions["Node"], rows)
    definitions["Parameter"] = _parameter(definitions["Parameter"])
    definitions["Expression"] = _expression()
    definitions |= {f"args_of_{row.name}": _arguments(row) for row in rows}
    fields = _described(schema["properties"], FIELDS)
    named = {name: fields[name] | {"additionalProperties": False} for name in NAMED}
    properties = (
        fields
        | named
        | {"$schema": {"type": "string", "description": "For editors; Esper ignores it."}}
    )
    return {
        "$schema": DRAFT_7,
        "$id": "urn:esper:blueprint",
        **schema,
        "properties": properties,
        "additionalProperties": False,
        "definitions": dict(sorted(definitions.items())),
    }


def _described(fields: Schema, descriptions: Mapping[str, str]) -> Schema:
    return {
        name: field | ({"description": descriptions[name]} if name in descriptions else {})
        for name, field in fields.items()
    }


def _node(model: Schema, rows: list[OpSpec]) -> Schema:
    properties = _described(model["properties"], NODE_FIELDS) | {
        "op": {
            "description": "The op that the node computes.",
            "oneOf": [{"const": row.name, "description": row.summary} for row in rows],
        },
        "args": {"type": "object", "description": "The op's arguments, by name."},
    }
    return model | {
        "properties": properties,
        "additionalProperties": False,
        "allOf": [_rule(row) for row in rows],
    }


def _rule(row: OpSpec) -> Schema:
    """Return the rule for nodes of this op: number of inputs, and arguments."""
    required = any(argument.default is None for argument in row.arguments.values())
    return {
        "if": {"properties": {"op": {"const": row.name}}, "required": ["op"]},
        "then": {
            "properties": {
                "inputs": {"minItems": row.min_inputs, "maxItems": row.max_inputs},
                "args": {"$ref": f"#/definitions/args_of_{row.name}"},
            },
            **({"required": ["args"]} if required else {}),
        },
    }


def _arguments(row: OpSpec) -> Schema:
    required = [name for name, argument in row.arguments.items() if argument.default is None]
    return {
        "type": "object",
        "description": row.summary,
        "properties": {name: _argument(argument) for name, argument in row.arguments.items()},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _argument(argument: Argument) -> Schema:
    expected = argument.expected
    schema: Schema = {"description": f"{expected[0].upper()}{expected[1:]}."}
    if argument.default is not None:
        schema["default"] = argument.default
    match argument:
        case SizeArgument(minimum=minimum, maximum=maximum):
            number = {"type": "integer", "minimum": minimum, "maximum": maximum}
            return schema | {"anyOf": [number, {"$ref": EXPRESSION}]}
        case ChoiceArgument(options=options):
            return schema | {"anyOf": [{"enum": list(options)}, {"$ref": EXPRESSION}]}
        case NumberArgument(minimum=minimum, exclusive_maximum=bound):
            return schema | {"type": "number", "minimum": minimum, "exclusiveMaximum": bound}
        case FlagArgument():
            return schema | {"type": "boolean"}
        case SizeListArgument(min_length=min_length, max_length=max_length):
            items = {"anyOf": _argument(argument.member)["anyOf"]}
            return schema | {
                "type": "array",
                "items": items,
                "minItems": min_length,
                "maxItems": max_length,
            }


def _parameter(model: Schema) -> Schema:
    bound = {"type": "integer", "minimum": 1, "maximum": MAX_SIZE}
    default = {
        "description": "An integer, or an expression over the sizes of the site.",
        "anyOf": [bound, {"$ref": EXPRESSION}],
    }
    return model | {
        "properties": {
            "default": default,
            "least": bound | {"default": 1},
            "most": bound | {"default": MAX_SIZE},
        },
        "additionalProperties": False,
    }


def _expression() -> Schema:
    return {
        "type": "string",
        "description": (
            "A size expression: integers, sizes of h (D; T, D; C, H, W), sizes of x (Dx, Tx, Cx, "
            "Hx, Wx), parameters, + - * //, min() and max()."
        ),
        "pattern": "^[A-Za-z0-9_ +*/(),-]+$",
        "maxLength": MAX_LENGTH,
    }
