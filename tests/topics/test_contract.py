"""The contract documents are generated, committed, and match the events on the wire."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from esper.topics.asyncapi import TOPIC_OPERATIONS, document, main, rendered, schemas, write
from esper.topics.catalog import TOPICS, topic_specs
from esper.topics.codec import cloud_event_headers, encode
from esper.topics.contract_version import next_version
from esper.topics.models import Count, Event, PolicySpec, SiteFacts
from tests.topics.events import EVENTS

COMMITTED = Path(__file__).parents[2] / "docs" / "contracts"
REMEDY = "the contract changed: run `make contracts` and commit it"
AUTHORED = "AuthoredBlueprint.json"
"""Generated from the table of ops and tested in tests/blueprint/test_schema.py."""

DOCUMENT = document()
SCHEMAS = schemas()


def at(pointer: str) -> Any:
    """Return the target of a reference within the document."""
    found: Any = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> Iterator[str]:
    """Yield all references below a node."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


# -- committed is generated ---------------------------------------------------------------------


def test_the_committed_contract_is_what_the_code_generates(tmp_path: Path) -> None:
    shutil.copy(COMMITTED / "asyncapi.json", tmp_path)
    generated = {file.relative_to(tmp_path): file.read_bytes() for file in write(tmp_path)}
    committed = {
        file.relative_to(COMMITTED): file.read_bytes()
        for file in COMMITTED.rglob("*.json")
        if file.name != AUTHORED
    }
    assert sorted(committed) == sorted(generated), REMEDY
    changed = [str(name) for name in generated if committed[name] != generated[name]]
    assert not changed, REMEDY


def test_the_command_writes_the_contract_and_lists_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["esper.topics.asyncapi", str(tmp_path)])
    main()
    assert str(tmp_path / "schemas" / "Blueprint.json") in capsys.readouterr().out
    assert (tmp_path / "asyncapi.json").read_bytes() == rendered(DOCUMENT)


# -- the version --------------------------------------------------------------------------------


def document_of(*models: type[Event], version: str = "3.1.0") -> dict[str, Any]:
    """Return the parts of a document that its version depends on, with events named E0, E1, ..."""
    schemas: dict[str, Any] = {}
    for number, model in enumerate(models):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[f"E{number}"] = schema
    messages = {f"E{number}": {} for number in range(len(models))}
    return {
        "info": {"version": version},
        "components": {"messages": messages | {"DeadLetter": {}}, "schemas": schemas},
    }


def version_after(before: type[Event], after: type[Event]) -> str:
    """Return the version after 3.1.0 when an event's model changes."""
    return next_version(document_of(before), document_of(after))


def test_a_first_document_gets_the_first_version(tmp_path: Path) -> None:
    write(tmp_path)
    assert orjson.loads((tmp_path / "asyncapi.json").read_bytes())["info"]["version"] == "1.0.0"


def test_a_document_with_other_events_raises_the_version_of_the_one_it_replaces(
    tmp_path: Path,
) -> None:
    before = document()
    del before["components"]["schemas"]["SeedReport"]["properties"]["paused"]
    (tmp_path / "asyncapi.json").write_bytes(rendered(before))
    write(tmp_path)
    assert orjson.loads((tmp_path / "asyncapi.json").read_bytes())["info"]["version"] == "1.1.0"


def test_a_new_event_raises_the_minor_part_and_a_removed_one_the_major_part() -> None:
    one, two = document_of(SiteFacts), document_of(SiteFacts, PolicySpec)
    assert next_version(one, two) == "3.2.0"
    assert next_version(two, one) == "4.0.0"


def test_prose_and_the_names_of_nested_models_are_no_part_of_a_shape() -> None:
    class Facts(SiteFacts):
        """Other words."""

    class Before(Event):
        """One docstring."""

        title: Count
        facts: SiteFacts

    class After(Event):
        title: Count
        facts: Facts

    assert version_after(Before, After) == "3.1.0"


def test_an_optional_field_raises_the_minor_part_and_any_other_change_the_major_part() -> None:
    class Plain(Event):
        title: int = 0

    class Extended(Plain):
        step: int = 0

    class Renamed(Event):
        description: int = 0

    class Retyped(Event):
        title: float = 0

    class Bounded(Event):
        title: Count = 0

    class OtherDefault(Event):
        title: int = 1

    class Required(Event):
        title: int

    class RequiredToo(Plain):
        step: int

    assert version_after(Plain, Extended) == "3.2.0"
    for changed in (Renamed, Retyped, Bounded, OtherDefault, Required, RequiredToo):
        assert version_after(Plain, changed) == "4.0.0", changed
    assert version_after(Extended, Plain) == "4.0.0"


def test_a_field_of_a_nested_event_counts_too() -> None:
    class Facts(SiteFacts):
        slope: float = 0.0

    class Before(Event):
        facts: tuple[SiteFacts, ...]

    class After(Event):
        facts: tuple[Facts, ...]

    assert version_after(Before, After) == "3.2.0"


# -- schemas -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_self_contained(name: str) -> None:
    Draft7Validator.check_schema(SCHEMAS[name])
    for reference in references(SCHEMAS[name]):
        assert reference.removeprefix("#/definitions/") in SCHEMAS[name]["definitions"]


@pytest.mark.parametrize("model", EVENTS, ids=lambda model: model.__name__)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_event_on_the_wire_matches_its_schema(
    model: type[Event], data: st.DataObject
) -> None:
    event = orjson.loads(encode(data.draw(EVENTS[model])))
    validator = Draft7Validator(SCHEMAS[model.__name__])
    validator.validate(event)
    validator.validate(event | {"x-later": 1})


@pytest.mark.parametrize("model", EVENTS, ids=lambda model: model.__name__)
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_schema_requires_the_same_fields_as_the_codec(
    model: type[Event], data: st.DataObject
) -> None:
    event = orjson.loads(encode(data.draw(EVENTS[model])))
    validator = Draft7Validator(SCHEMAS[model.__name__])
    for name, field in model.model_fields.items():
        rest = {key: value for key, value in event.items() if key != name}
        assert validator.is_valid(rest) is not field.is_required(), name


def test_the_document_holds_the_same_schemas() -> None:
    for name, schema in SCHEMAS.items():
        below = at(f"#/components/schemas/{name}")
        as_in_file = {key: value for key, value in schema.items() if key in below}
        assert orjson.dumps(as_in_file, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            below, option=orjson.OPT_SORT_KEYS
        ).replace(b"#/components/schemas/", b"#/definitions/")


# -- AsyncAPI 3 ---------------------------------------------------------------------------------


def test_the_document_has_the_parts_that_asyncapi_3_requires() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"]["title"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", DOCUMENT["info"]["version"])
    permitted = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels"}
    assert DOCUMENT.keys() <= permitted | {"operations", "components"}


def test_every_reference_resolves() -> None:
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        assert at(reference), reference


def test_every_topic_and_dead_letter_topic_is_a_channel_with_the_broker_s_configuration() -> None:
    specs = {spec.name: spec for spec in topic_specs()}
    assert DOCUMENT["channels"].keys() == (
        {topic.name for topic in TOPICS} | {topic.dead_letters for topic in TOPICS}
    )
    for name, channel in DOCUMENT["channels"].items():
        kafka = channel["bindings"]["kafka"]
        assert channel["address"] == kafka["topic"] == name
        assert kafka["partitions"] == specs[name].partitions
        policy = kafka["topicConfiguration"]["cleanup.policy"]
        assert policy == [dict(specs[name].config)["cleanup.policy"]]


def test_every_operation_names_its_channel_and_a_message_of_that_channel() -> None:
    assert len(DOCUMENT["operations"]) == len(TOPIC_OPERATIONS)
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        assert channel.startswith("#/channels/")
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_every_topic_has_a_producer_and_carries_its_event() -> None:
    sent = {operation.topic.name for operation in TOPIC_OPERATIONS if operation.action == "send"}
    for topic in TOPICS:
        assert topic.name in sent
        (message,) = DOCUMENT["channels"][topic.name]["messages"].values()
        assert at(message["$ref"])["payload"] == {
            "$ref": f"#/components/schemas/{topic.model.__name__}"
        }


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_sent_headers_match_the_document(topic: Any) -> None:
    name = topic.model.__name__
    signature = "0" * 128 if topic.signed else None
    headers = cloud_event_headers(name, b"{}", source="/esper/test", signature=signature)
    schema = at(f"#/components/messages/{name}")["headers"]
    Draft7Validator(schema).validate({key: value.decode() for key, value in headers})
    assert {key for key, _ in headers} == schema["properties"].keys()
