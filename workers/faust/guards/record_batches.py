"""Record batches: one Faust message that carries many records of one partition.

Faust creates two tasks, a queue, a lock and callbacks for every message, which costs more than
decoding and folding a report. A record batch pays this once for all its records. For Faust it is a
message at the offset of its last record; it is finished when all its records are.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import faust
from faust import EventT
from faust.types import AppT, Message

from esper.topics.bus import Record

RecordBatch = EventT[tuple[Record, ...]]

MAX_BATCH_RECORDS = 64
MAX_BATCH_BYTES = 1024 * 1024
"""A batch ends at either limit; a larger record is a batch of its own."""

RECORD_OVERHEAD_BYTES = 1024
"""Assumed memory of a record beside its value."""


class RecordBatchSchema(faust.Schema[Any, Any]):
    """Passes a record batch on undecoded: the agent decodes its records."""

    def loads_key(self, app: AppT, message: Message, **options: Any) -> Any:
        """Return None: each record of the batch has its own key."""
        return None

    def loads_value(self, app: AppT, message: Message, **options: Any) -> Any:
        """Return the records."""
        return message.value


def split(records: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the client's records of one partition as batches within the limits, in order."""
    batch: list[Any] = []
    batch_bytes = 0
    for record in records:
        record_bytes = len(record.value or b"")
        full = len(batch) == MAX_BATCH_RECORDS or batch_bytes + record_bytes > MAX_BATCH_BYTES
        if batch and full:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(record)
        batch_bytes += record_bytes
    if batch:
        yield batch


def records_of(message: Message) -> Sequence[Record]:
    """Return the records of a record batch's message; empty for an ordinary message."""
    # Faust's annotation allows bytes only.
    value = cast(Any, message.value)
    return value if isinstance(value, tuple) else ()


def memory_bytes(message: Message) -> int:
    """Return roughly how many bytes of memory the records of a record batch occupy."""
    return sum(RECORD_OVERHEAD_BYTES + len(record.value or b"") for record in records_of(message))
