"""Write record batches that no client library writes, such as ones with invalid header names."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

INVALID_UTF8 = b"\xff\xfe"


class RawRecord(NamedTuple):
    """A record of a batch; header names are bytes."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes]] = ()


class _RawName(str):
    """A header name that is encoded as given bytes."""

    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> "_RawName":
        name = super().__new__(cls, "?" * len(raw))
        name.raw = raw  # type: ignore[misc]
        return name

    def encode(self, *_: Any) -> bytes:
        """Return the bytes."""
        return cast(bytes, self.raw)  # type: ignore[attr-defined]


def write_batch(servers: str, topic: str, records: Sequence[RawRecord], partition: int = 0) -> None:
    """Write one uncompressed batch to a partition and wait for the acknowledgement."""
    asyncio.run(_write(servers, topic, partition, _batch(records)))


def _batch(records: Sequence[RawRecord]) -> bytes:
    builder = _DefaultRecordBatchBuilderPy(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 24,
    )
    for offset, (key, value, headers) in enumerate(records):
        named: list[tuple[str, bytes | None]] = [(_RawName(name), text) for name, text in headers]
        assert builder.append(offset, None, key, value, named) is not None
    return bytes(builder.build())


async def _write(servers: str, topic: str, partition: int, batch: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    try:
        await producer.partitions_for(topic)
        client = producer.client
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=30_000,
            topics=[(topic, [(partition, batch)])],
        )
        response = await client.send(leader, request)
        code = response.topics[0][1][0][1]
        if code:
            raise for_code(code)
    finally:
        await producer.stop()
