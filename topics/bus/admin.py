"""Create the topics of the catalog, list the topics of a broker, and delete records."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from esper.topics.bus.connection import connect
from esper.topics.bus.diagnosis import forbidden_topics
from esper.topics.bus.errors import AccessDenied, BusError, TopicMismatch
from esper.topics.bus.security import client_options
from esper.topics.catalog import TopicSpec, topic_specs
from esper.topics.connection import Broker

VISIBLE_TIMEOUT_S = 10.0
"""How long a new topic may take to appear in the broker's metadata."""


def create_topics(broker: Broker, *, replication_factor: int = 1) -> list[str]:
    """Create the catalog's missing topics and return their names.

    Raises:
        BrokerUnreachable: no broker answers.
        TopicMismatch: a topic exists with another partition count; it is not changed.
        BusError: the broker refused to create a topic.
    """
    return create_topics_from(broker, list(topic_specs()), replication_factor)


def create_topics_from(
    broker: Broker, specs: list[TopicSpec], replication_factor: int = 1
) -> list[str]:
    """Create the missing topics of a list; see `create_topics`."""
    return asyncio.run(_create(broker, specs, replication_factor))


async def partition_counts(broker: Broker) -> dict[str, int]:
    """Return the partition count of every topic of the broker, by name.

    Raises:
        BrokerUnreachable: no broker answers.
    """
    admin = AIOKafkaAdminClient(**client_options(broker))
    try:
        await connect(admin, broker)
        return await _partitions(admin)
    finally:
        await admin.close()


async def require_access(broker: Broker, topics: Iterable[str], group: str) -> None:
    """Check that this client can see the topics and may read in a consumer group.

    Raises:
        AccessDenied: an access control list forbids it.
        BrokerUnreachable, ConnectionRefused: no broker answers, or it refuses this client.
    """
    if forbidden := await forbidden_topics(broker, topics):
        raise AccessDenied(broker, "Describe", "topic", forbidden)
    admin = AIOKafkaAdminClient(**client_options(broker))
    try:
        await connect(admin, broker)
        with suppress(KafkaError):  # A coordinator that is not available yet is no refusal.
            try:
                await admin.find_coordinator(group)
            except GroupAuthorizationFailedError as error:
                raise AccessDenied(broker, "Read", "group", [group]) from error
    finally:
        await admin.close()


def delete_records(broker: Broker, topic: str, before_offset: int) -> None:
    """Delete the records of a topic of one partition below an offset.

    Raises:
        BrokerUnreachable: no broker answers.
        BusError: the broker refused.
    """
    asyncio.run(_delete(broker, TopicPartition(topic, 0), before_offset))


async def _delete(broker: Broker, partition: TopicPartition, before_offset: int) -> None:
    admin = AIOKafkaAdminClient(**client_options(broker))
    try:
        await connect(admin, broker)
        await admin.delete_records({partition: RecordsToDelete(before_offset)})
    except TopicAuthorizationFailedError as error:
        raise AccessDenied(broker, "Delete", "topic", [partition.topic]) from error
    except KafkaError as error:
        raise BusError(
            f"the broker did not delete records of {partition.topic}: {error}"
        ) from error
    finally:
        await admin.close()


async def _create(broker: Broker, specs: list[TopicSpec], replication_factor: int) -> list[str]:
    admin = AIOKafkaAdminClient(**client_options(broker))
    try:
        await connect(admin, broker)
        missing = _missing(specs, await _partitions(admin))
        response = await admin.create_topics(
            [
                NewTopic(
                    spec.name, spec.partitions, replication_factor, topic_configs=dict(spec.config)
                )
                for spec in missing
            ]
        )
        for name, code, *message in response.topic_errors:
            error = for_code(code)
            if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
                raise AccessDenied(broker, "Create", "topic", [spec.name for spec in missing])
            if code and error is not TopicAlreadyExistsError:
                why = message or error.__name__
                raise BusError(
                    f"the broker refused to create topic {name}: {why}; "
                    "check its configuration and permissions"
                )
        await _wait_until_visible(admin, specs)
        return [spec.name for spec in missing]
    finally:
        await admin.close()


def _missing(specs: Iterable[TopicSpec], partitions: dict[str, int]) -> list[TopicSpec]:
    for spec in specs:
        found = partitions.get(spec.name, spec.partitions)
        if found != spec.partitions:
            raise TopicMismatch(
                f"topic {spec.name} has {found} partitions and must have {spec.partitions}; "
                "delete it, or use another cluster, then run `esper topics create`"
            )
    return [spec for spec in specs if spec.name not in partitions]


async def _wait_until_visible(admin: AIOKafkaAdminClient, specs: list[TopicSpec]) -> None:
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while missing := _missing(specs, await _partitions(admin)):
        if time.monotonic() > deadline:
            raise BusError(
                f"topic {missing[0].name} was created but is missing from the broker's metadata "
                f"after {VISIBLE_TIMEOUT_S:.0f} s; run `esper topics create` again"
            )
        await asyncio.sleep(0.05)


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    topics = await admin.describe_topics()
    return {topic["topic"]: len(topic["partitions"]) for topic in topics}
