"""Families: the values of a blueprint's named parameters, and members with other values."""

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from esper.blueprint.arguments import AuthoredValue
from esper.blueprint.expressions import (
    FUNCTIONS,
    MAX_SIZE,
    evaluate,
    is_constant,
    names_in,
    parse,
    symbols_of,
)
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.topics.models import Blueprint, Parameter

LEAST: Final = 1


def check_parameters(blueprint: Blueprint, symbols: frozenset[str]) -> None:
    """Check ranges, defaults and values that do not depend on a site.

    Raises:
        BlueprintRejected: a parameter is invalid; the message names it.
    """
    for name, parameter in blueprint.parameters.items():
        try:
            _check_parameter(name, parameter, symbols)
        except BlueprintRejected as rejection:
            raise rejection.at(f"parameter {name!r}") from None
    for name, value in blueprint.values.items():
        if (declared := blueprint.parameters.get(name)) is None:
            known = ", ".join(blueprint.parameters) or "none"
            raise _bad(f"value {name!r}: no such parameter; the parameters are {known}")
        if not declared.least <= value <= declared.most:
            raise _bad(f"value {name!r}: {value} is not from {declared.least} to {declared.most}")


def check_parameters_used(blueprint: Blueprint) -> None:
    """Check that an argument of a node uses every parameter; otherwise all members are equal.

    Raises:
        BlueprintRejected: no argument uses a parameter; the message names it.
    """
    authored = (value for node in blueprint.nodes for value in node.args.values())
    used = frozenset[str]().union(*map(_names, authored))
    for name in blueprint.parameters:
        if name not in used:
            raise _bad(f"parameter {name!r}: no argument uses this parameter; use it or remove it")


def values_at(blueprint: Blueprint, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the parameters' values at a site: the chosen value, else the default.

    The value of a default expression is clamped to the range of its parameter.
    """
    values = {}
    for name, parameter in blueprint.parameters.items():
        if name in blueprint.values:
            values[name] = blueprint.values[name]
            continue
        try:
            default = _default(parameter, sizes)
        except BlueprintRejected as rejection:
            raise rejection.at(f"parameter {name!r}") from None
        values[name] = min(max(default, parameter.least), parameter.most)
    return values


def member(blueprint: Blueprint, values: Mapping[str, int]) -> Blueprint:
    """Return the member of a family with these values; the values become part of its id.

    Raises:
        BlueprintRejected: a value has no parameter, or is outside its parameter's range.
    """
    if not values:
        return blueprint
    suffix = "".join(f".{name}-{value}" for name, value in sorted(values.items()))
    try:
        found = Blueprint.model_validate(
            blueprint.model_dump()
            | {
                "blueprint_id": blueprint.blueprint_id + suffix,
                "values": {**blueprint.values, **values},
            }
        )
    except ValidationError as error:
        raise _bad(f"no member can have the id {blueprint.blueprint_id + suffix!r}") from error
    check_parameters(found, symbols_of(*found.kinds))
    return found


def _check_parameter(name: str, parameter: Parameter, symbols: frozenset[str]) -> None:
    if name in FUNCTIONS:
        raise _bad(f"has the name of a function of size expressions ({', '.join(FUNCTIONS)})")
    if not LEAST <= parameter.least <= parameter.most <= MAX_SIZE:
        raise _bad(
            f"has the range {parameter.least} to {parameter.most}, which must be within "
            f"{LEAST} to {MAX_SIZE}"
        )
    default = parameter.default
    if isinstance(default, str):
        tree = parse(default, symbols)
        if not is_constant(tree):
            return
        default = evaluate(tree, {})
    if not parameter.least <= default <= parameter.most:
        raise _bad(f"default {default} is not from {parameter.least} to {parameter.most}")


def _names(value: AuthoredValue) -> frozenset[str]:
    texts = value if isinstance(value, tuple) else (value,)
    return frozenset[str]().union(*(names_in(text) for text in texts if isinstance(text, str)))


def _default(parameter: Parameter, sizes: Mapping[str, int]) -> int:
    if isinstance(parameter.default, int):
        return parameter.default
    return evaluate(parse(parameter.default, sizes.keys()), sizes)


def _bad(message: str) -> BlueprintRejected:
    return BlueprintRejected(RejectionCode.BAD_PARAMETER, message)
