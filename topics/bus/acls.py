"""Create access control entries on a broker: aiokafka's admin client cannot, librdkafka's can."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from esper.topics.acl import AclEntry
from esper.topics.bus.admin import partition_counts
from esper.topics.bus.errors import AccessDenied, BusError
from esper.topics.connection import Broker, KafkaConnection, connection_to

TIMEOUT_S: Final = 15.0

# librdkafka would write its own lines to stderr; its errors come back as exceptions.
_silent = logging.getLogger("esper.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class AppliedAcl(NamedTuple):
    """The entries created, and entries of the same topics and groups that the list lacks."""

    created: list[AclEntry]
    others: list[str]


def apply_acl(broker: Broker, entries: Sequence[AclEntry]) -> AppliedAcl:
    """Create the missing entries on a broker; change no other.

    Raises:
        BrokerUnreachable, ConnectionRefused: no broker answers, or it refuses this client.
        AccessDenied: this client may not list or create entries.
        BusError: the broker has no authorizer, or failed.
    """
    connection = connection_to(broker)
    asyncio.run(partition_counts(connection))  # for the errors above
    client = AdminClient(client_configuration(connection), logger=_silent)
    try:
        found = _existing(client)
        wanted = {_binding(entry): entry for entry in entries}
        missing = [binding for binding in wanted if binding not in found]
        if missing:
            created = client.create_acls(missing, request_timeout=TIMEOUT_S)
            for future in created.values():
                future.result(TIMEOUT_S)
            _wait_until_visible(client, missing)
    except KafkaException as error:
        raise _error(connection, error.args[0]) from error
    names = {entry.name for entry in entries}
    others = [_text(one) for one in found if one not in wanted and one.name in names]
    return AppliedAcl([wanted[binding] for binding in missing], sorted(others))


def _existing(client: AdminClient) -> set[AclBinding]:
    return set(client.describe_acls(ANY, request_timeout=TIMEOUT_S).result(TIMEOUT_S))


def _wait_until_visible(client: AdminClient, created: list[AclBinding]) -> None:
    """Return when the broker knows the entries: the controller accepts them before that."""
    deadline = time.monotonic() + TIMEOUT_S
    while not _existing(client).issuperset(created):
        if time.monotonic() > deadline:
            raise BusError(
                f"the broker accepted the entries but does not show them after {TIMEOUT_S:.0f} s; "
                "run `esper topics acl --apply` again"
            )
        time.sleep(0.05)


ANY: Final = AclBindingFilter(
    ResourceType.ANY,
    None,
    ResourcePatternType.ANY,
    None,
    None,
    AclOperation.ANY,
    AclPermissionType.ANY,
)


def _binding(entry: AclEntry) -> AclBinding:
    return AclBinding(
        ResourceType[entry.resource.name],
        entry.name,
        ResourcePatternType.LITERAL,
        entry.principal,
        "*",
        AclOperation[entry.operation.name],
        AclPermissionType.ALLOW,
    )


def _text(one: AclBinding) -> str:
    kind = one.resource_pattern_type.name.lower()
    return (
        f"{one.principal} from {one.host}: {one.permission_type.name} {one.operation.name} "
        f"{one.restype.name.lower()} {one.name} ({kind})"
    )


def client_configuration(connection: KafkaConnection) -> dict[str, Any]:
    """Return the configuration of librdkafka's clients for a connection."""
    options: dict[str, Any] = {
        "bootstrap.servers": connection.bootstrap_servers,
        "security.protocol": connection.security_protocol.value,
    }
    if (tls := connection.tls) is not None:
        if tls.ca_file is not None:
            options["ssl.ca.location"] = str(tls.ca_file)
        if tls.client_certificate is not None:
            options["ssl.certificate.location"] = str(tls.client_certificate.certificate_file)
            options["ssl.key.location"] = str(tls.client_certificate.key_file)
    if (sasl := connection.sasl) is not None:
        options["sasl.mechanism"] = sasl.mechanism.value
        options["sasl.username"] = sasl.username
        options["sasl.password"] = sasl.password.get_secret_value()
    return options


def _error(connection: KafkaConnection, error: KafkaError) -> BusError:
    if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        return AccessDenied(connection, "Alter", "cluster", ["kafka-cluster"])
    if error.code() == KafkaError.SECURITY_DISABLED:
        return BusError(
            f"the brokers at {connection.bootstrap_servers} have no authorizer; "
            "set authorizer.class.name in their configuration"
        )
    return BusError(f"the broker did not apply the access control list: {error.str()}")
