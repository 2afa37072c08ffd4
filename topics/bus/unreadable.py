"""Read past records that the Kafka client library cannot decode.

aiokafka decodes a batch inside a fetch. A header name that is not UTF-8, a codec that is not
installed or damaged compressed data raises out of the fetch, and the position never moves: one
record would stop a consumer forever. Here such a record is delivered without its content, marked
as unreadable, and the records beside it are delivered as usual.

`read_past_unreadable_records` replaces two names in `aiokafka.consumer.fetcher` that are not part
of its public interface; pyproject.toml bounds the version.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, cast

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from esper.topics.bus.decompression import require_bounded
from esper.topics.bus.record import UNREADABLE

BATCH_HEADER: Final = struct.Struct(">qi")
"""Base offset, and the length of what follows; the same in all versions of the format."""

RECORDS_POSITION: Final = _DefaultRecordBatchPy.HEADER_STRUCT.size
"""Where the records of a batch begin."""

MAX_REASON_CHARS: Final = 300


class RememberedBatches:
    """The batches of a fetched partition; `raw` holds the bytes of the one that is being read."""

    def __init__(self, data: bytes) -> None:
        self._batches = MemoryRecords(data)
        self._data = memoryview(data)
        self._position = 0
        self.raw = self._data[:0]
        self.batch: Any = None

    def has_next(self) -> bool:
        """Return whether a whole batch follows."""
        return bool(self._batches.has_next())

    def size_in_bytes(self) -> int:
        """Return the size of the fetched bytes."""
        return int(self._batches.size_in_bytes())

    def damaged(self) -> bool:
        """Return whether the last batch was damaged on its way from the broker."""
        if self.batch is None:
            return True
        return self.batch.magic >= 2 and not _DefaultRecordBatchPy(self.raw).validate_crc()

    def next_batch(self) -> Any:
        """Return the next batch."""
        _, length = BATCH_HEADER.unpack_from(self._data, self._position)
        end = self._position + BATCH_HEADER.size + length
        self.raw, self._position = self._data[self._position : end], end
        self.batch = self._batches.next_batch()
        self.require_bounded()
        return self.batch

    def require_bounded(self) -> None:
        """Raise BatchTooLarge if the last batch decompresses to too many bytes."""
        if self.batch.magic >= 2 and self.batch.compression_type:
            require_bounded(self.batch.compression_type, self.raw[RECORDS_POSITION:])


class TolerantPartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of a fetched partition; unreadable ones are marked instead of raised."""

    _tp: TopicPartition
    _records: RememberedBatches
    next_fetch_offset: int
    _delivered_to: int = -1

    def _unpack_records(self) -> Iterator[Any]:
        while True:
            try:
                for record in super()._unpack_records():
                    if self._is_in_batch(record):
                        yield record
                    else:
                        yield from self._rest_of_batch(record)
                return
            except Exception:
                if self._records.damaged():
                    raise  # The client fetches the batch again.
                yield from self._readable_part()

    def _readable_part(self) -> Iterator[Any]:
        """Yield the rest of the present batch, record by record; skip nothing without a mark."""
        end = self._records.batch.next_offset
        try:
            self._records.require_bounded()
            records = _DefaultRecordBatchPy(self._records.raw)
            records._maybe_uncompress()
            for _ in range(records._num_records):
                found = self._next_of(records)
                if found.offset >= self.next_fetch_offset:
                    self.next_fetch_offset = found.offset + 1
                    if self._is_in_batch(found):
                        yield found
                    else:
                        yield from self._rest_of_batch(found)
        except Exception as unreadable:  # noqa: BLE001 - whatever a codec raises
            if self.next_fetch_offset < end:
                offsets = f"{self.next_fetch_offset} to {end - 1}"
                yield self._unreadable(end - 1, unreadable, f"the batch of offsets {offsets}")
        self.next_fetch_offset = end

    def _is_in_batch(self, record: Any) -> bool:
        """Return whether a record's offset is one of its batch's.

        The producer writes offsets within a batch, and the broker does not check all of them.
        """
        batch = self._records.batch
        if not batch.base_offset <= record.offset < batch.next_offset:
            return False
        self._delivered_to = record.offset + 1
        return True

    def _rest_of_batch(self, record: Any) -> Iterator[Any]:
        """Skip the rest of a batch from a record outside of it; yield a mark for that."""
        batch = self._records.batch
        self.next_fetch_offset = batch.next_offset
        if self._delivered_to < batch.next_offset:
            self._delivered_to = batch.next_offset
            error = ValueError(f"offset {record.offset} is outside of the batch")
            yield self._unreadable(batch.next_offset - 1, error, "the rest of a batch")

    def _next_of(self, records: _DefaultRecordBatchPy) -> Any:
        """Return the next record of a batch."""
        length, start = _varint(records._buffer, records._pos)
        try:
            return self._consumer_record(self._tp, records._read_msg(_varint))
        except Exception as error:  # noqa: BLE001 - whatever decoding raises
            records._pos = start + length
            _, position = _varint(records._buffer, start)  # attributes
            _, position = _varint(records._buffer, position)  # timestamp
            offset_delta, _ = _varint(records._buffer, position)
            return self._unreadable(records.base_offset + offset_delta, error, "the record")

    def _unreadable(self, offset: int, error: Exception, what: str) -> Any:
        reason = f"{what} cannot be read: {type(error).__name__}: {error}"[:MAX_REASON_CHARS]
        return ConsumerRecord(
            topic=self._tp.topic,
            partition=self._tp.partition,
            offset=offset,
            timestamp=0,
            timestamp_type=0,
            key=None,
            value=None,
            checksum=None,
            serialized_key_size=-1,
            serialized_value_size=-1,
            headers=((UNREADABLE, reason.encode()),),
        )


def _varint(buffer: bytearray, position: int) -> tuple[int, int]:
    """Return a zigzag-encoded integer and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7


def read_past_unreadable_records() -> None:
    """Deliver unreadable records with a mark, in all consumers of this process."""
    module = cast(Any, fetcher)
    module.MemoryRecords = RememberedBatches
    module.PartitionRecords = TolerantPartitionRecords
