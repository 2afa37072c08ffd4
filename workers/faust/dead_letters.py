"""Decode the record of a Faust event, or send it to its dead letter topic."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar, cast

import structlog
from faust import EventT

from esper.topics.bus import Producer, Record, partition_of
from esper.topics.catalog import Topic
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Event
from esper.workers.faust.metrics import DEAD_LETTERS, RECORDS

log = structlog.get_logger()


class DlqReason(StrEnum):
    """Why a record was sent to the dead letter topic: a metric label. Its headers have the text."""

    UNREADABLE = "unreadable"
    UNDECODABLE = "undecodable"
    WRONG_KEY = "wrong-key"
    WRONG_PARTITION = "wrong-partition"
    NO_RUN_CONFIG = "no-run-config"
    UNFOLDABLE = "unfoldable"
    CLOSED = "closed"
    SEQUENCE_GAP = "sequence-gap"
    CONTRADICTION = "contradiction"
    BROKEN = "broken"
    FAILED = "failed"


E = TypeVar("E", bound=Event)

MAX_REASON_CHARS = 500
"""Characters of a reason in a log line and a dead letter."""

MAX_QUOTED_BYTES = 100
"""Bytes of a key that a reason quotes."""


def record_of(event: EventT[bytes]) -> Record:
    """Return the Kafka record of a Faust event."""
    message = event.message
    # Faust's annotation also allows a mapping; its Kafka driver always returns pairs.
    headers = cast("Sequence[tuple[str, bytes | None]]", message.headers or ())
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=int((message.timestamp or 0) * 1000),
        key=message.key,
        value=message.value,
        headers=tuple((name, value or b"") for name, value in headers),
    )


async def read(topic: Topic, model: type[E], record: Record, producer: Producer) -> E | None:
    """Return the event of a record of `topic`, whose events are of `model`.

    A record that cannot be decoded, has another key than its event, or is on another partition than
    its event belongs on, is sent to the DLQ; the result is then None.
    """
    RECORDS.labels(record.topic).inc()
    if record.unreadable is not None:
        await send_to_dlq(record, DlqReason.UNREADABLE, record.unreadable, producer)
        return None
    try:
        event = decode(model, record.value)
    except Undecodable as error:
        await send_to_dlq(record, DlqReason.UNDECODABLE, str(error), producer)
        return None
    if topic.any_key:
        return event
    if record.key != (key := topic.key_of(event)):
        found = None if record.key is None else record.key[:MAX_QUOTED_BYTES]
        reason = f"the key is {found!r} but must be the {topic.key} {key.decode()!r}"
        await send_to_dlq(record, DlqReason.WRONG_KEY, reason, producer)
        return None
    expected = partition_of(topic.partition_key_of(event), topic.partitions)
    if record.partition != expected:
        reason = (
            f"the record is on partition {record.partition}, its key belongs on {expected}; "
            "set the client's partitioner to murmur2_random"
        )
        await send_to_dlq(record, DlqReason.WRONG_PARTITION, reason, producer)
        return None
    return event


async def send_to_dlq(record: Record, label: DlqReason, reason: str, producer: Producer) -> None:
    """Send a record's unchanged bytes to its dead letter topic, count it and log it."""
    reason = reason[:MAX_REASON_CHARS]
    await producer.send_to_dlq(record, reason)
    DEAD_LETTERS.labels(record.topic, label).inc()
    log.warning(
        "dead letter",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=reason,
    )
