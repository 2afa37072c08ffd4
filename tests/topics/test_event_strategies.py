"""The strategies of the contract's property tests reach every field of every event."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from esper.topics import models
from esper.topics.catalog import TOPICS
from esper.topics.models import Event
from tests.topics.events import events_of

MODELS = tuple(
    model
    for model in vars(models).values()
    if isinstance(model, type) and issubclass(model, Event) and model is not Event
)


def nested_models(annotation: Any) -> Iterator[type[Event]]:
    """Yield the events that an annotation contains, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, Event):
        yield annotation
        for field in annotation.model_fields.values():
            yield from nested_models(field.annotation)
    for argument in getattr(annotation, "__args__", ()):
        yield from nested_models(argument)


def test_every_event_is_part_of_an_event_of_a_topic() -> None:
    """The property tests draw the events of the topics, and so every event."""
    reached = {part for topic in TOPICS for part in nested_models(topic.model)}
    assert set(MODELS) == reached


def test_every_event_that_is_defined_is_exported() -> None:
    defined = {model for model in _subclasses(Event) if model.__module__.startswith("esper.topics")}
    assert defined == set(MODELS)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_takes_a_value_other_than_its_default(model: type[Event]) -> None:
    kept = set(model.model_fields)

    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(events_of(model))
    def draw(event: Event) -> None:
        for name in tuple(kept):
            if getattr(event, name) != model.model_fields[name].default:
                kept.remove(name)

    draw()
    constants = {name for name in kept if _is_constant(model, name)}
    assert kept == constants, f"tests/topics/events.py never sets {sorted(kept - constants)}"


def _is_constant(model: type[Event], name: str) -> bool:
    """Return whether a field has one possible value, as the discriminator `op` has."""
    return "const" in model.model_json_schema()["properties"][name]


def _subclasses(base: type[Event]) -> Iterator[type[Event]]:
    for model in base.__subclasses__():
        yield model
        yield from _subclasses(model)
