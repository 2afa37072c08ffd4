"""The version of the contract, and the check that a changed event raises it.

`fingerprint.json` beside the contract documents records the version and a digest of the shape of
each event. Documents for changed shapes are written only under a new version.
"""

from pathlib import Path
from typing import Any, Final

import orjson

from esper.errors import EsperError
from esper.topics.catalog import TOPICS
from esper.topics.codec import sha256_of
from esper.topics.models import Event

CONTRACT_VERSION: Final = "3.0.0"
"""Raised by hand: the minor part for a new optional field, the major part for other changes."""

FINGERPRINT_FILE: Final = "fingerprint.json"

_PROSE: Final = frozenset({"title", "description"})


class VersionNotRaised(EsperError):
    """Events changed their shape and `CONTRACT_VERSION` did not change."""

    def __init__(self, changed: list[str]) -> None:
        super().__init__(
            f"the shape of {', '.join(changed)} changed under contract version "
            f"{CONTRACT_VERSION}; raise CONTRACT_VERSION in topics/contract_version.py, "
            "then run `make contracts`"
        )


def fingerprint() -> dict[str, Any]:
    """Return the contract version and the digest of each event's shape, as JSON values."""
    events = {topic.model.__name__: shape_digest(topic.model) for topic in TOPICS}
    return {"version": CONTRACT_VERSION, "events": events}


def check_version(directory: Path) -> None:
    """Compare the events with the fingerprint in a directory, if there is one.

    Raises:
        VersionNotRaised: the fingerprint has this version and other digests.
    """
    file = directory / FINGERPRINT_FILE
    if not file.exists():
        return
    committed = orjson.loads(file.read_bytes())
    current = fingerprint()
    if committed["version"] != current["version"]:
        return
    names = sorted(committed["events"].keys() | current["events"].keys())
    changed = [
        name for name in names if committed["events"].get(name) != current["events"].get(name)
    ]
    if changed:
        raise VersionNotRaised(changed)


def shape_digest(model: type[Event]) -> str:
    """Return the SHA-256 of an event's JSON Schema without prose and names of nested models."""
    schema = model.model_json_schema()
    shape = _shape(schema, schema.get("$defs", {}))
    return sha256_of(orjson.dumps(shape, option=orjson.OPT_SORT_KEYS))


def _shape(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with references replaced by their definitions and without prose."""
    if isinstance(schema, list):
        return [_shape(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(reference := schema.get("$ref"), str):
        definition = definitions[reference.rpartition("/")[2]]
        return _shape(definition | {k: v for k, v in schema.items() if k != "$ref"}, definitions)
    return {
        # Below "properties" a key is the name of a field, which may be "title".
        name: {field: _shape(value, definitions) for field, value in item.items()}
        if name == "properties"
        else _shape(item, definitions)
        for name, item in schema.items()
        if name not in (*_PROSE, "$defs", "discriminator")
    }
