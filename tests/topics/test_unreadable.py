"""Damaged record batches: whatever their bytes, reading continues behind them."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy, _DefaultRecordBatchPy
from aiokafka.record.util import calc_crc32c

from esper.topics.bus import Record
from esper.topics.bus.unreadable import RememberedBatches, TolerantPartitionRecords

RECORDS = 5
FIRST = 100
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
DAMAGED = 2_000
"""Damaged batches per codec: 10,000 of all."""


def batch(codec: int, first_offset: int = FIRST) -> bytearray:
    """Return a batch of records with keys, values and headers."""
    builder = _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset in range(RECORDS):
        value = b'{"a": 1}' * (offset + 1)
        builder.append(offset, 1_000 + offset, b"key", value, [("name", b"text"), ("other", None)])
    whole = bytearray(builder.build())
    whole[:8] = first_offset.to_bytes(8)
    return whole


def sealed(whole: bytearray) -> bytes:
    """Return a batch with the checksum of its present bytes, as the broker accepts it."""
    start = _DefaultRecordBatchPy.ATTRIBUTES_OFFSET
    checksum = calc_crc32c(bytes(whole[start:]))
    whole[_DefaultRecordBatchPy.CRC_OFFSET : start] = checksum.to_bytes(4)
    return bytes(whole)


def read(data: bytes) -> tuple[list[Record], int]:
    """Return the records that a consumer gets from fetched bytes, and its next position."""
    records: Any = TolerantPartitionRecords(
        TopicPartition("t", 0), RememberedBatches(data), [], FIRST, None, None, True, 0
    )
    return [Record.from_client(message) for message in records], records.next_fetch_offset


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_an_undamaged_batch_is_read_as_it_is(codec: int) -> None:
    records, position = read(sealed(batch(codec)))
    assert offsets(records) == list(range(FIRST, FIRST + RECORDS))
    assert all(record.unreadable is None for record in records)
    assert position == FIRST + RECORDS


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_whatever_a_batch_holds_the_next_batch_is_read(codec: int) -> None:
    generator = random.Random(codec)
    behind = sealed(batch(0, FIRST + RECORDS))
    start = _DefaultRecordBatchPy.HEADER_STRUCT.size
    unreadable = 0
    for _ in range(DAMAGED):
        damaged = batch(codec)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(start, len(damaged))] = generator.randrange(256)
        records, position = read(sealed(damaged) + behind)
        assert position == FIRST + 2 * RECORDS
        assert offsets(records)[-RECORDS:] == list(range(FIRST + RECORDS, position))
        assert offsets(records) == sorted(set(offsets(records)))
        marked = [record for record in records if record.unreadable is not None]
        assert all((record.key, record.value) == (None, None) for record in marked)
        unreadable += bool(marked)
    assert unreadable > DAMAGED / 20


def test_one_record_with_an_invalid_header_name_is_marked_alone() -> None:
    damaged = batch(0)
    place = bytes(damaged).index(b"name", bytes(damaged).index(b"name") + 1)
    damaged[place] = 0xFF
    records, _ = read(sealed(damaged))
    assert offsets(records) == list(range(FIRST, FIRST + RECORDS))
    assert [record.offset for record in records if record.unreadable] == [FIRST + 1]
    assert records[1].unreadable is not None
    assert records[1].unreadable.startswith("the record cannot be read: UnicodeDecodeError")


def test_a_batch_that_was_damaged_on_the_way_is_fetched_again() -> None:
    damaged = bytearray(sealed(batch(0)))
    damaged[-1] ^= 0xFF
    with pytest.raises(Exception, match="Invalid CRC"):
        read(bytes(damaged))
