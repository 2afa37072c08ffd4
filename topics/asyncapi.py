"""The contract as documents: AsyncAPI 3, and one JSON Schema (draft 7) for each event.

Both are generated from the catalog and the models, so they say what the code does:
`python -m esper.topics.asyncapi DIR` writes `asyncapi.json` and `schemas/*.json`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic.json_schema import models_json_schema

from esper.topics.catalog import (
    ADAPTATION_DECISION,
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    KERNEL_READY,
    KERNEL_REQUESTED,
    RUN_CONTROL,
    SEED_METRICS,
    TOPICS,
    TRAINING_RUN,
    Topic,
    TopicSpec,
    topic_specs,
)
from esper.topics.codec import TYPE_PREFIX

CONTRACT_VERSION = "2.0.0"
"""Raised by hand: the minor part for a new optional field, the major part for anything else."""

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
KAFKA_BINDING_VERSION = "0.5.0"

Schema = dict[str, Any]


class Flow(NamedTuple):
    """Who sends to, or receives from, a topic."""

    who: str
    action: Literal["send", "receive"]
    topic: Topic


FLOWS: tuple[Flow, ...] = (
    Flow("author", "send", BLUEPRINT_SUBMITTED),
    Flow("planner", "receive", BLUEPRINT_SUBMITTED),
    Flow("trainer", "send", TRAINING_RUN),
    Flow("planner", "receive", TRAINING_RUN),
    Flow("planner", "send", KERNEL_REQUESTED),
    Flow("compiler", "receive", KERNEL_REQUESTED),
    Flow("planner", "send", KERNEL_COMPILED),
    Flow("compiler", "send", KERNEL_COMPILED),
    Flow("compiler", "send", KERNEL_READY),
    Flow("trainer", "receive", KERNEL_READY),
    Flow("trainer", "send", SEED_METRICS),
    Flow("bandit", "receive", SEED_METRICS),
    Flow("bandit", "send", ADAPTATION_DECISION),
    Flow("trainer", "receive", ADAPTATION_DECISION),
    Flow("operator", "send", RUN_CONTROL),
    Flow("trainer", "receive", RUN_CONTROL),
)


def document() -> dict[str, Any]:
    """Return the AsyncAPI 3 document of all topics, as JSON values."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Esper",
            "version": CONTRACT_VERSION,
            "description": "Neural networks that grow while they train: the events on Kafka.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": dict(_channels()),
        "operations": {_operation_id(flow): _operation(flow) for flow in FLOWS},
        "components": {
            "messages": {topic.model.__name__: _message(topic) for topic in TOPICS}
            | {"DeadLetter": _dead_letter()},
            "schemas": _definitions("#/components/schemas/{model}"),
        },
    }


def schemas() -> dict[str, Schema]:
    """Return one self-contained JSON Schema for each event, by the name of its model.

    They describe what is accepted: fields with a default may be missing, unknown ones are ignored.
    """
    return {topic.model.__name__: _schema(topic) for topic in TOPICS}


def write(directory: Path) -> list[Path]:
    """Write the document and the schemas under a directory; return the files."""
    contents = {directory / "asyncapi.json": document()}
    contents |= {
        directory / "schemas" / f"{name}.json": schema for name, schema in schemas().items()
    }
    for file, content in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(rendered(content))
    return list(contents)


def rendered(content: dict[str, Any]) -> bytes:
    """Return a document as it is written: indented JSON, ending in a line break."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _schema(topic: Topic) -> Schema:
    schema = topic.model.model_json_schema(ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs", {})
    complete = {"$schema": DRAFT_7, "$id": f"urn:esper:event:{topic.model.__name__}", **schema}
    if definitions:
        complete["definitions"] = definitions
    described: Schema = _without_discriminators(complete)
    return described


def _definitions(ref_template: str) -> dict[str, Schema]:
    _, schema = models_json_schema(
        [(topic.model, "validation") for topic in TOPICS], ref_template=ref_template
    )
    definitions: dict[str, Schema] = _without_discriminators(schema["$defs"])
    return definitions


def _without_discriminators(schema: Any) -> Any:
    """Drop a keyword of OpenAPI; the constant in each alternative says the same in JSON Schema."""
    if isinstance(schema, dict):
        return {
            name: _without_discriminators(value)
            for name, value in schema.items()
            if not (name == "discriminator" and "propertyName" in value)
        }
    if isinstance(schema, list):
        return [_without_discriminators(value) for value in schema]
    return schema


def _channels() -> Iterator[tuple[str, dict[str, Any]]]:
    specs = {spec.name: spec for spec in topic_specs()}
    for topic in TOPICS:
        yield topic.name, _channel(specs[topic.name], topic.model.__name__, topic.summary)
        summary = f"Records of {topic.name} that could not be understood, byte for byte."
        yield topic.dead_letters, _channel(specs[topic.dead_letters], "DeadLetter", summary)


def _channel(spec: TopicSpec, message: str, summary: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        name: int(value) if value.lstrip("-").isdigit() else [value] for name, value in spec.config
    }
    return {
        "address": spec.name,
        "summary": summary,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions,
                "topicConfiguration": config,
                "bindingVersion": KAFKA_BINDING_VERSION,
            }
        },
    }


def _message(topic: Topic) -> dict[str, Any]:
    name = topic.model.__name__
    return {
        "name": name,
        "contentType": "application/json",
        "summary": f"Keyed by {topic.key}. Headers are optional.",
        "headers": _event_headers(name),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"The field {topic.key}."},
                "bindingVersion": KAFKA_BINDING_VERSION,
            }
        },
    }


def _event_headers(name: str) -> Schema:
    """CloudEvents 1.0 in Kafka's binary mode, and W3C Trace Context."""
    sha256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    return {
        "type": "object",
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": sha256 | {"description": "The SHA-256 of the value."},
            "ce_source": {"type": "string"},
            "ce_type": {"type": "string", "const": f"{TYPE_PREFIX}{name}"},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": {"type": "string"},
        },
    }


def _dead_letter() -> dict[str, Any]:
    text = {"type": "string"}
    number = {"type": "string", "pattern": "^[0-9]+$"}
    return {
        "name": "DeadLetter",
        "summary": "The untouched record, key and headers included, with reason and origin.",
        "headers": {
            "type": "object",
            "required": ["dlq-reason", "dlq-topic", "dlq-partition", "dlq-offset"],
            "properties": {
                "dlq-reason": text,
                "dlq-topic": text,
                "dlq-partition": number,
                "dlq-offset": number,
                "dlq-value-bytes": number
                | {"description": "Present where the value was too large; it stays at its origin."},
            },
        },
        "payload": {"description": "Any bytes."},
    }


def _operation_id(flow: Flow) -> str:
    return f"{flow.who}-{flow.action}s-{flow.topic.name}"


def _operation(flow: Flow) -> dict[str, Any]:
    message = f"#/channels/{flow.topic.name}/messages/{flow.topic.model.__name__}"
    return {
        "action": flow.action,
        "channel": {"$ref": f"#/channels/{flow.topic.name}"},
        "messages": [{"$ref": message}],
        "tags": [{"name": flow.who}],
    }


def main() -> None:
    """Write the contract under the directory named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m esper.topics.asyncapi DIR")
    for file in write(Path(sys.argv[1])):
        print(file)


if __name__ == "__main__":
    main()
