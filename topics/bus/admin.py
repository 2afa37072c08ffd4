"""Create the topics of the catalog, list the topics of a broker, and delete records."""

import asyncio
import time
from collections.abc import Iterable

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from esper.topics.bus.connection import connect
from esper.topics.bus.errors import BusError, TopicMismatch
from esper.topics.catalog import TopicSpec, topic_specs

VISIBLE_TIMEOUT_S = 10.0
"""How long a new topic may take to appear in the broker's metadata."""


def create_topics(bootstrap_servers: str, *, replication_factor: int = 1) -> list[str]:
    """Create the catalog's missing topics and return their names.

    Raises:
        BrokerUnreachable: no broker answers.
        TopicMismatch: a topic exists with another partition count; it is not changed.
        BusError: the broker refused to create a topic.
    """
    return create_topics_from(bootstrap_servers, list(topic_specs()), replication_factor)


def create_topics_from(
    bootstrap_servers: str, specs: list[TopicSpec], replication_factor: int = 1
) -> list[str]:
    """Create the missing topics of a list; see `create_topics`."""
    return asyncio.run(_create(bootstrap_servers, specs, replication_factor))


async def partition_counts(bootstrap_servers: str) -> dict[str, int]:
    """Return the partition count of every topic of the broker, by name.

    Raises:
        BrokerUnreachable: no broker answers.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await connect(admin, bootstrap_servers)
        return await _partitions(admin)
    finally:
        await admin.close()


def delete_records(bootstrap_servers: str, topic: str, before_offset: int) -> None:
    """Delete the records of a topic of one partition below an offset.

    Raises:
        BrokerUnreachable: no broker answers.
        BusError: the broker refused.
    """
    asyncio.run(_delete(bootstrap_servers, TopicPartition(topic, 0), before_offset))


async def _delete(bootstrap_servers: str, partition: TopicPartition, before_offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await connect(admin, bootstrap_servers)
        await admin.delete_records({partition: RecordsToDelete(before_offset)})
    except KafkaError as error:
        raise BusError(
            f"the broker did not delete records of {partition.topic}: {error}"
        ) from error
    finally:
        await admin.close()


async def _create(
    bootstrap_servers: str, specs: list[TopicSpec], replication_factor: int
) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await connect(admin, bootstrap_servers)
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
