"""The JSON Schema of a blueprint as an author writes it, made of the model and the table of ops.

It is narrower than what the topic accepts: the closed set of ops, each with its own arguments and
their ranges, and no field that Esper would ignore, so that an editor shows a slip as it is made.
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
"""The fields whose keys are names of parameters."""

EXPRESSION: Final = "#/definitions/Expression"

Schema = dict[str, Any]

FIELDS: Final = {
    "blueprint_id": "Its name: unique among yours, lower case, digits, dots and dashes.",
    "kind": "The kind of site it serves, or a list of kinds; it may use the sizes they share.",
    "summary": "A sentence on what it is for, and where it comes from.",
    "category": "A word for what kind of network it is; selectors may prefer one.",
    "parameters": "Numbers that make it a family, by name; sizes may use them like C or D.",
    "values": "Values of parameters that are chosen; the others take their defaults.",
    "nodes": "The ops in the order in which they are computed; each reads x, h or earlier nodes.",
    "output": "The last node, of the shape of h: what the kernel adds to the site.",
}
NODE_FIELDS: Final = {
    "id": "A name for its value; x and h are taken.",
    "inputs": "What it reads: x, the input of the site; h, its output; ids of earlier nodes.",
}


def author_schema() -> Schema:
    """Return the schema (draft 7), self-contained."""
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
        | {"$schema": {"type": "string", "description": "For editors; Esper does not read it."}}
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
            "description": "What the node computes.",
            "oneOf": [{"const": row.name, "description": row.summary} for row in rows],
        },
        "args": {"type": "object", "description": "The arguments of the op, by name."},
    }
    return model | {
        "properties": properties,
        "additionalProperties": False,
        "allOf": [_rule(row) for row in rows],
    }


def _rule(row: OpSpec) -> Schema:
    """Return what holds for a node of this op: how many inputs, which arguments."""
    needed = any(argument.default is None for argument in row.arguments.values())
    return {
        "if": {"properties": {"op": {"const": row.name}}, "required": ["op"]},
        "then": {
            "properties": {
                "inputs": {"minItems": row.fewest, "maxItems": row.most},
                "args": {"$ref": f"#/definitions/args_of_{row.name}"},
            },
            **({"required": ["args"]} if needed else {}),
        },
    }


def _arguments(row: OpSpec) -> Schema:
    required = [name for name, argument in row.arguments.items() if argument.default is None]
    return {
        "type": "object",
        "description": row.summary,
        "properties": {name: _argument(each) for name, each in row.arguments.items()},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _argument(argument: Argument) -> Schema:
    expected = argument.expected
    schema: Schema = {"description": f"{expected[0].upper()}{expected[1:]}."}
    if argument.default is not None:
        schema["default"] = argument.default
    match argument:
        case SizeArgument(least=least, most=most):
            number = {"type": "integer", "minimum": least, "maximum": most}
            return schema | {"anyOf": [number, {"$ref": EXPRESSION}]}
        case ChoiceArgument(options=options):
            return schema | {"anyOf": [{"enum": list(options)}, {"$ref": EXPRESSION}]}
        case NumberArgument(least=least, below=below):
            return schema | {"type": "number", "minimum": least, "exclusiveMaximum": below}
        case FlagArgument():
            return schema | {"type": "boolean"}
        case SizeListArgument(fewest=fewest, longest=longest):
            items = {"anyOf": _argument(argument.each)["anyOf"]}
            return schema | {
                "type": "array",
                "items": items,
                "minItems": fewest,
                "maxItems": longest,
            }


def _parameter(model: Schema) -> Schema:
    bound = {"type": "integer", "minimum": 1, "maximum": MAX_SIZE}
    default = {
        "description": "A number, or an expression over the sizes of the site.",
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
            "A size expression: whole numbers, sizes of the site (D; T, D; C, H, W of the "
            "output, with x after them of the input), parameters, + - * //, min() and max()."
        ),
        "pattern": "^[A-Za-z0-9_ +*/(),-]+$",
        "maxLength": MAX_LENGTH,
    }
