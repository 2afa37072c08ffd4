"""A hypothesis strategy for each event, derived from the annotations of the model's fields.

A new event or field needs no change here unless its model has a validator over several fields:
add such a rule to `RULES`. `test_event_strategies.py` fails for a field that keeps its default.
"""

import re
import types
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

from esper.topics.catalog import TOPICS
from esper.topics.models import (
    Event,
    Orchestration,
    RequestKind,
    RunRequest,
    SeedReport,
    Selection,
)

Fields = dict[str, Any]

MAX_ITEMS = 3
MAX_CHARS = 12


def _request(fields: Fields) -> Fields:
    """Give a request of a seed a site, and no site or slot to another request."""
    if fields["kind"] in (RequestKind.CULL, RequestKind.KEEP):
        return fields | {"site": fields.get("site") or "fc1"}
    return fields | {"site": None, "slot": None}


def _orchestration(fields: Fields) -> Fields:
    """Make the entering threshold of each pair the stricter one."""
    rules = Orchestration.model_construct(**fields)
    ordered: Fields = {}
    for name, stricter, looser in (
        ("plateau_share", min, max),
        ("dominance", max, min),
        ("comparable_ratio", min, max),
    ):
        pair = getattr(rules, name), getattr(rules, f"{name}_stay")
        ordered |= {name: stricter(pair), f"{name}_stay": looser(pair)}
    return fields | ordered


def _selection(fields: Fields) -> Fields:
    """Give a selection with auditions an orchestration."""
    if fields.get("auditions") is None or fields.get("orchestration") is not None:
        return fields
    return fields | {"orchestration": Orchestration()}


RULES: Mapping[type[Event], Callable[[Fields], Fields]] = {
    RunRequest: _request,
    Orchestration: _orchestration,
    Selection: _selection,
}
"""Changes that make independently drawn fields of a model valid together."""


@cache
def events_of(model: type[Event]) -> SearchStrategy[Any]:
    """Return a strategy for a model: required fields always, other fields sometimes."""
    fields = {
        name: strategy_for(Annotated[field.annotation, field])
        for name, field in model.model_fields.items()
    }
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    drawn = st.fixed_dictionaries(
        {name: strategy for name, strategy in fields.items() if name in required},
        optional={name: strategy for name, strategy in fields.items() if name not in required},
    )
    rule = RULES.get(model, lambda fields: fields)
    return drawn.map(lambda fields: model(**rule(fields)))


def strategy_for(annotation: Any, limits: Mapping[str, Any] | None = None) -> SearchStrategy[Any]:
    """Return a strategy for the values that a field's annotation allows.

    Raises:
        TypeError: the annotation has a form that no event has used yet; add it here.
    """
    limits = limits or {}
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return strategy_for(arguments[0], {**limits, **_limits(arguments[1:])})
        case origin if origin in (Union, types.UnionType):
            return st.one_of(*(strategy_for(member, limits) for member in arguments))
        case origin if origin is Literal:
            return st.sampled_from(arguments)
        case origin if origin is tuple:
            return _lists(arguments[0], limits).map(tuple)
        case origin if origin is dict:
            keys, values = map(strategy_for, arguments)
            return st.dictionaries(keys, values, max_size=MAX_ITEMS)
    if not isinstance(annotation, type):
        raise TypeError(f"no strategy for {annotation}; add its form to tests/topics/events.py")
    return _plain(annotation, limits)


def _plain(kind: type, limits: Mapping[str, Any]) -> SearchStrategy[Any]:
    if kind is types.NoneType:
        return st.none()
    if issubclass(kind, Event):
        return st.deferred(lambda: events_of(kind))
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    if kind is bool:
        return st.booleans()
    if kind is str:
        return _texts(limits)
    if kind is int:
        least, most = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
        return st.integers(
            None if least is None else least + ("gt" in limits),
            None if most is None else most - ("lt" in limits),
        )
    if kind is float:
        return st.floats(
            limits.get("ge", limits.get("gt")),
            limits.get("le", limits.get("lt")),
            exclude_min="gt" in limits,
            exclude_max="lt" in limits,
            allow_nan=False,
            allow_infinity=False,
        )
    raise TypeError(f"no strategy for {kind}; add it to tests/topics/events.py")


def _lists(items: Any, limits: Mapping[str, Any]) -> SearchStrategy[list[Any]]:
    return st.lists(
        strategy_for(items),
        min_size=limits.get("min_length", 0),
        max_size=min(MAX_ITEMS, limits.get("max_length", MAX_ITEMS)),
        unique=limits.get("unique", False),
    )


def _texts(limits: Mapping[str, Any]) -> SearchStrategy[str]:
    pattern = limits.get("pattern")
    if pattern is None:
        return st.text(max_size=min(MAX_CHARS, limits.get("max_length", MAX_CHARS)))
    if digest := re.fullmatch(r"\^\[0-9a-f\]\{(\d+)\}\$", pattern):
        size = int(digest[1]) // 2
        return st.binary(min_size=size, max_size=size).map(bytes.hex)
    short = re.sub(r"\{0,\d+\}", f"{{0,{MAX_CHARS}}}", pattern.strip("^$"))
    return st.from_regex(short, fullmatch=True)


def _limits(metadata: Iterable[Any]) -> dict[str, Any]:
    """Return the constraints among an annotation's metadata, by their names in `Field`."""
    found: dict[str, Any] = {}
    for entry in metadata:
        match entry:
            case Ge(ge):
                found["ge"] = ge
            case Gt(gt):
                found["gt"] = gt
            case Le(le):
                found["le"] = le
            case Lt(lt):
                found["lt"] = lt
            case MinLen(size):
                found["min_length"] = size
            case MaxLen(size):
                found["max_length"] = size
            case StringConstraints():
                found["pattern"] = entry.pattern
                found["max_length"] = entry.max_length
            case FieldInfo():
                found |= _limits(entry.metadata)
                if isinstance(entry.json_schema_extra, dict):
                    found["unique"] = entry.json_schema_extra.get("uniqueItems", False)
            case _:
                if (pattern := getattr(entry, "pattern", None)) is not None:
                    found["pattern"] = pattern
    return {name: value for name, value in found.items() if value is not None}


EVENTS: dict[type[Event], SearchStrategy[Any]] = {
    topic.model: events_of(topic.model) for topic in TOPICS
}
"""The events of the topics; other events are parts of these."""

any_event: SearchStrategy[Event] = st.one_of(*EVENTS.values())
reports = EVENTS[SeedReport]
