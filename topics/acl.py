"""The access control list of `acl.toml`: the roles, and Kafka's entries for their principals."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict


class Operation(StrEnum):
    """Kafka's name of an operation."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DELETE = "Delete"
    DESCRIBE = "Describe"


class Resource(StrEnum):
    """The kind of a resource, as Kafka's tools spell it."""

    TOPIC = "topic"
    GROUP = "group"


class AclEntry(NamedTuple):
    """One permission: `principal` may do `operation` with the resource of this exact name."""

    principal: str
    operation: Operation
    resource: Resource
    name: str


class Role(BaseModel):
    """What one kind of process may do; topics and consumer groups by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    create: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    describe: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def topics(self) -> Iterator[tuple[Operation, tuple[str, ...]]]:
        """Yield each operation with the topics it is allowed on."""
        for operation in Operation:
            if names := getattr(self, operation.lower()):
                yield operation, names


@cache
def roles() -> Mapping[str, Role]:
    """Return the roles by name."""
    text = files("esper.topics").joinpath("acl.toml").read_text(encoding="utf-8")
    return {name: Role.model_validate(role) for name, role in tomllib.loads(text).items()}


def default_principal(role: str) -> str:
    """Return the principal of a role, unless an operator names others."""
    return f"User:esper-{role}"


def acl_entries(principals: Mapping[str, Sequence[str]] | None = None) -> list[AclEntry]:
    """Return the entries of all roles; `principals` replaces the default one of a role.

    Raises:
        KeyError: `principals` names a role that does not exist.
    """
    given = principals or {}
    if unknown := given.keys() - roles().keys():
        raise KeyError(*unknown)
    return [
        entry
        for name, role in roles().items()
        for principal in given.get(name, [default_principal(name)])
        for entry in _entries_of(principal, role)
    ]


def _entries_of(principal: str, role: Role) -> Iterator[AclEntry]:
    for operation, names in role.topics():
        for name in names:
            yield AclEntry(principal, operation, Resource.TOPIC, name)
    for group in role.groups:
        yield AclEntry(principal, Operation.READ, Resource.GROUP, group)


def kafka_acls_commands(entries: Sequence[AclEntry]) -> list[str]:
    """Return arguments of Kafka's own `kafka-acls.sh`, one line per principal and operation."""
    grouped: dict[tuple[str, Operation, Resource], list[str]] = {}
    for principal, operation, resource, name in entries:
        grouped.setdefault((principal, operation, resource), []).append(name)
    return [
        f"--add --allow-principal '{principal}' --operation {operation} "
        + " ".join(f"--{resource} {name}" for name in names)
        for (principal, operation, resource), names in grouped.items()
    ]
