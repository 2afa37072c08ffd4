"""The contract as documents: AsyncAPI 3, and one JSON Schema (draft 7) for each event.

`python -m esper.topics.asyncapi DIR` generates `asyncapi.json` and `schemas/*.json` from the
catalog and the models. The version is raised where an event differs from the replaced document.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic.json_schema import models_json_schema

from esper.topics.catalog import (
    ADAPTATION_DECISION,
    AUDITION_REQUESTED,
    BLUEPRINT_SUBMITTED,
    DECISION_CANDIDATES,
    KERNEL_AUDITIONED,
    KERNEL_COMPILED,
    KERNEL_READY,
    KERNEL_REQUESTED,
    KERNEL_REVOKED,
    RUN_CONTROL,
    SEED_METRICS,
    TOPICS,
    TRAINING_RUN,
    Topic,
    TopicSpec,
    topic_specs,
)
from esper.topics.codec import SIGNATURE_HEADER, TYPE_PREFIX
from esper.topics.contract_version import next_version

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
KAFKA_BINDING_VERSION = "0.5.0"

Schema = dict[str, Any]


class TopicOperation(NamedTuple):
    """A client that sends to, or receives from, a topic."""

    client: str
    action: Literal["send", "receive"]
    topic: Topic


TOPIC_OPERATIONS: tuple[TopicOperation, ...] = (
    TopicOperation("author", "send", BLUEPRINT_SUBMITTED),
    TopicOperation("planner", "receive", BLUEPRINT_SUBMITTED),
    TopicOperation("trainer", "send", TRAINING_RUN),
    TopicOperation("planner", "receive", TRAINING_RUN),
    TopicOperation("planner", "send", KERNEL_REQUESTED),
    TopicOperation("compiler", "receive", KERNEL_REQUESTED),
    TopicOperation("planner", "send", KERNEL_COMPILED),
    TopicOperation("compiler", "send", KERNEL_COMPILED),
    TopicOperation("compiler", "send", KERNEL_READY),
    TopicOperation("trainer", "receive", KERNEL_READY),
    TopicOperation("trainer", "send", AUDITION_REQUESTED),
    TopicOperation("audition", "receive", AUDITION_REQUESTED),
    TopicOperation("audition", "send", KERNEL_AUDITIONED),
    TopicOperation("trainer", "receive", KERNEL_AUDITIONED),
    TopicOperation("trainer", "send", SEED_METRICS),
    TopicOperation("bandit", "receive", SEED_METRICS),
    TopicOperation("bandit", "send", ADAPTATION_DECISION),
    TopicOperation("trainer", "receive", ADAPTATION_DECISION),
    TopicOperation("bandit", "send", DECISION_CANDIDATES),
    TopicOperation("auditor", "receive", DECISION_CANDIDATES),
    TopicOperation("operator", "send", KERNEL_REVOKED),
    TopicOperation("trainer", "receive", KERNEL_REVOKED),
    TopicOperation("operator", "send", RUN_CONTROL),
    TopicOperation("trainer", "receive", RUN_CONTROL),
)


def document(before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the AsyncAPI 3 document of all topics, as JSON values; it replaces `before`."""
    replacement: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Esper",
            "version": "",
            "description": "Neural networks that grow while they train: the events on Kafka.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": dict(_channels()),
        "operations": {_operation_id(entry): _operation(entry) for entry in TOPIC_OPERATIONS},
        "components": {
            "messages": {topic.model.__name__: _message(topic) for topic in TOPICS}
            | {"DeadLetter": _dead_letter()},
            "schemas": _definitions("#/components/schemas/{model}"),
        },
    }
    replacement["info"]["version"] = next_version(before, replacement)
    return replacement


def schemas() -> dict[str, Schema]:
    """Return a self-contained JSON Schema for each event, by the name of its model.

    The schemas describe accepted values: fields with a default may be missing, and unknown fields
    are ignored.
    """
    return {topic.model.__name__: _schema(topic) for topic in TOPICS}


def write(directory: Path) -> list[Path]:
    """Write the document and the schemas to a directory; return the files."""
    file = directory / "asyncapi.json"
    before = orjson.loads(file.read_bytes()) if file.exists() else None
    contents = {file: document(before)}
    contents |= {
        directory / "schemas" / f"{name}.json": schema for name, schema in schemas().items()
    }
    for file, content in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(rendered(content))
    return list(contents)


def rendered(content: dict[str, Any]) -> bytes:
    """Return the bytes of a document: indented JSON that ends with a line break."""
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
    """Return a schema without OpenAPI's `discriminator`, a copy of the `const`s."""
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
        summary = f"Records of {topic.name} that could not be processed, byte for byte."
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
        "summary": f"Keyed by {topic.key}. {_which_partition(topic)}{_which_headers(topic)}",
        "headers": _event_headers(topic),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"The field {topic.key}."},
                "bindingVersion": KAFKA_BINDING_VERSION,
            }
        },
    }


def _which_partition(topic: Topic) -> str:
    if topic.partition_field is None:
        return ""
    return f"Partitioned by the murmur2 hash of the canonical JSON of {topic.partition_field}. "


def _which_headers(topic: Topic) -> str:
    optional = "Headers are optional"
    return f"{optional}, but for {SIGNATURE_HEADER}." if topic.signed else f"{optional}."


def _event_headers(topic: Topic) -> Schema:
    """Return the schema of CloudEvents 1.0 in Kafka's binary mode, and W3C Trace Context."""
    sha256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    schema: Schema = {
        "type": "object",
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": sha256 | {"description": "The SHA-256 of the value."},
            "ce_source": {"type": "string"},
            "ce_type": {"type": "string", "const": f"{TYPE_PREFIX}{topic.model.__name__}"},
            "content-type": {"type": "string", "const": "application/json"},
            "traceparent": {"type": "string"},
        },
    }
    if topic.signed:
        schema["properties"][SIGNATURE_HEADER] = {
            "type": "string",
            "pattern": "^[0-9a-f]{128}$",
            "description": "The deployment's signature of the value, after the purpose line.",
        }
        schema["required"] = [SIGNATURE_HEADER]
    return schema


def _dead_letter() -> dict[str, Any]:
    text = {"type": "string"}
    number = {"type": "string", "pattern": "^[0-9]+$"}
    return {
        "name": "DeadLetter",
        "summary": "The unchanged record with key and headers, and headers with reason and origin.",
        "headers": {
            "type": "object",
            "required": ["dlq-reason", "dlq-topic", "dlq-partition", "dlq-offset"],
            "properties": {
                "dlq-reason": text,
                "dlq-topic": text,
                "dlq-partition": number,
                "dlq-offset": number,
                "dlq-value-bytes": number
                | {"description": "Size of a value too large to copy; read it from its origin."},
            },
        },
        "payload": {"description": "Any bytes."},
    }


def _operation_id(operation: TopicOperation) -> str:
    return f"{operation.client}-{operation.action}s-{operation.topic.name}"


def _operation(operation: TopicOperation) -> dict[str, Any]:
    channel = f"#/channels/{operation.topic.name}"
    return {
        "action": operation.action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{operation.topic.model.__name__}"}],
        "tags": [{"name": operation.client}],
    }


def main() -> None:
    """Write the contract to the directory that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m esper.topics.asyncapi DIR")
    for file in write(Path(sys.argv[1])):
        print(file)


if __name__ == "__main__":
    main()
