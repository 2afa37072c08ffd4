"""Shipped blueprints with a few values replaced, dropped, repeated or exchanged, at random."""

import json
from typing import Any, Final

from hypothesis import strategies as st

from esper.blueprint import shipped
from esper.topics.codec import encode
from esper.topics.models import SiteSignature
from tests.compiler.hostile.corpus import SITES

VALUES: Final = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 10**12, (1 << 63) - 1, 0.5, 1e308, -0.0),
    *("", "x", "h", "C", "D", "T*D", "C**C", "C-C", "rank", "add", "matmul", "concat", "learned"),
    *("transpose", "attention", "softmax", "__class__", "a" * 70, [], {}, [0], ["C"], [1] * 9),
    *(["h"] * 8, {"out": "C"}, {"default": 1}, "feature_map", "sequence", "vector"),
)
"""What takes the place of a value somewhere in a blueprint."""

Place = tuple[Any, Any]
"""A list or object, and a position or key in it."""


def places_in(value: Any) -> list[Place]:
    """Return every place in a JSON value, from the outside in."""
    if not isinstance(value, list | dict):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [*((value, key) for key in keys), *(at for key in keys for at in places_in(value[key]))]


@st.composite
def mutants(draw: st.DrawFn) -> tuple[bytes, SiteSignature]:
    """Draw the bytes of a spoiled blueprint, and one of the small sites."""
    blueprint = json.loads(encode(draw(st.sampled_from(shipped()))))
    for _ in range(draw(st.integers(1, 3))):
        places = places_in(blueprint)
        held, key = draw(st.sampled_from(places))
        _spoil(draw, held, key, places)
    site = draw(st.sampled_from(("map", "vector", "half", "sequence")))
    return json.dumps(blueprint).encode(), SITES[site]


def _spoil(draw: st.DrawFn, held: Any, key: Any, places: list[Place]) -> None:
    match draw(st.sampled_from(("replace", "drop", "repeat", "exchange"))):
        case "replace":
            held[key] = copied(draw(st.sampled_from(VALUES)))
        case "drop":
            del held[key]
        case "repeat" if isinstance(held, list):
            held.insert(key, copied(held[key]))
        case _:
            other, at = draw(st.sampled_from(places))
            held[key] = copied(other[at])


def copied(value: Any) -> Any:
    """Return a copy: what is put into itself is no JSON, and what is spoiled is spoiled for all."""
    return json.loads(json.dumps(value))
