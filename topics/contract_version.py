"""The version of the contract, which `make contracts` raises when events change.

The committed AsyncAPI document holds the version and the schema of each event. A document with
other shapes gets the next version: the minor part is raised where events only gain optional fields,
the major part for every other change.
"""

from typing import Any, Final

FIRST_VERSION: Final = "1.0.0"

_PROSE: Final = frozenset({"title", "description"})


def next_version(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    """Return the version of the AsyncAPI document `after`, which replaces `before`."""
    if before is None:
        return FIRST_VERSION
    version: str = before["info"]["version"]
    old, new = event_shapes(before), event_shapes(after)
    if old == new:
        return version
    major, minor, _ = map(int, version.split("."))
    return f"{major}.{minor + 1}.0" if _extends(new, old) else f"{major + 1}.0.0"


def event_shapes(document: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of each event, by name, without prose and names of nested models."""
    components = document["components"]
    schemas = components["schemas"]
    return {
        "properties": {
            name: _shape(schemas[name], schemas)
            for name in components["messages"]
            if name in schemas
        }
    }


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
        if name not in _PROSE
    }


def _extends(new: Any, old: Any) -> bool:
    """Return whether a shape differs from an older one only by optional fields that it adds."""
    if isinstance(new, dict) and isinstance(old, dict):
        return new.keys() == old.keys() and all(
            _adds_fields(new[name], old[name])
            if name == "properties"
            else _extends(new[name], old[name])
            for name in old
        )
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(map(_extends, new, old))
    return bool(new == old)


def _adds_fields(new: dict[str, Any], old: dict[str, Any]) -> bool:
    return new.keys() >= old.keys() and all(_extends(new[name], old[name]) for name in old)
