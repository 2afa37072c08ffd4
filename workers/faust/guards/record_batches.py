"""Records handed out in parcels: one message to Faust, many records to the agent.

Faust gives each message two tasks, a queue, a lock and a set of callbacks on its way from the
consumer to an agent, and some more when it is acknowledged: more work than decoding and folding a
report. A parcel takes that way once for all its records. To Faust it is a message of a partition,
at the offset of its last record, and it is finished when all its records are.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import faust
from faust import EventT
from faust.types import AppT, Message

from esper.topics.bus import Record

RecordBatch = EventT[tuple[Record, ...]]

PARCEL_RECORDS = 64
PARCEL_BYTES = 1024 * 1024
"""A parcel is cut off at either; a larger record is a parcel of its own."""

RECORD_BYTES = 1024
"""What a record is taken to occupy beside its value."""


class RecordBatchSchema(faust.Schema[Any, Any]):
    """Takes a parcel as it is: its records are decoded by the agent."""

    def loads_key(self, app: AppT, message: Message, **options: Any) -> Any:
        """Return nothing: records of a parcel have a key each."""
        return None

    def loads_value(self, app: AppT, message: Message, **options: Any) -> Any:
        """Return the records."""
        return message.value


def split(records: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the client's records of one partition as they go into parcels, in order."""
    record_batch: list[Any] = []
    size = 0
    for record in records:
        own = len(record.value or b"")
        if record_batch and (len(record_batch) == PARCEL_RECORDS or size + own > PARCEL_BYTES):
            yield record_batch
            record_batch, size = [], 0
        record_batch.append(record)
        size += own
    if record_batch:
        yield record_batch


def records_of(message: Message) -> Sequence[Record]:
    """Return the records of a parcel's message; none for an ordinary message."""
    # Faust's annotation knows values that are bytes only.
    value = cast(Any, message.value)
    return value if isinstance(value, tuple) else ()


def weight_of(message: Message) -> int:
    """Return roughly how many bytes of memory the records of a parcel's message occupy."""
    return sum(RECORD_BYTES + len(record.value or b"") for record in records_of(message))
