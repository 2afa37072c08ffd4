"""From a Faust event to one of ours: the record, decoded, or put among the dead letters."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar, cast

import structlog
from faust import EventT

from esper.topics.bus import Producer, Record
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Event
from esper.workers.faust.metrics import DEAD_LETTERS, RECORDS

log = structlog.get_logger()


class DlqReason(StrEnum):
    """Why a record lies among the dead letters, as metrics have it; its headers say it in words."""

    UNDECODABLE = "undecodable"
    WRONG_KEY = "wrong-key"
    UNOPENED = "unopened"
    UNFOLDABLE = "unfoldable"
    CLOSED = "closed"
    HOLE = "hole"
    CONTRADICTION = "contradiction"
    BROKEN = "broken"


E = TypeVar("E", bound=Event)


def record_of(event: EventT[bytes]) -> Record:
    """Return the record that a Faust event wraps."""
    message = event.message
    # Faust's annotation allows a mapping as well; its Kafka driver always gives pairs.
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


async def read(model: type[E], record: Record, producer: Producer) -> E | None:
    """Return the event in a record; None when it is none and lies among the dead letters now."""
    RECORDS.labels(record.topic).inc()
    try:
        return decode(model, record.value)
    except Undecodable as error:
        await send_to_dlq(record, DlqReason.UNDECODABLE, str(error), producer)
        return None


async def send_to_dlq(record: Record, unfit: DlqReason, reason: str, producer: Producer) -> None:
    """Put a record's untouched bytes among the dead letters, where a person will look."""
    await producer.dead_letter(record, reason)
    DEAD_LETTERS.labels(record.topic, unfit).inc()
    log.warning(
        "dead letter",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=reason,
    )
