"""The bandit's work in a bare aiokafka loop, without Faust and without tables.

The loop decodes, folds, publishes decisions and commits batch by batch. Its state is in memory
only, so it cannot survive a restart, unlike the worker that it is compared with.
"""

import asyncio
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.result import BenchmarkError
from esper.audit import cause_of
from esper.orchestrator import Folded, FoldState, fold
from esper.topics.bus import Record
from esper.topics.catalog import ADAPTATION_DECISION, DECISION_CANDIDATES, SEED_METRICS, Topic
from esper.topics.codec import cloud_event_headers, decode, encode
from esper.topics.models import Event, SeedReport

TIMEOUT_S: Final = 120.0
POLL_MS: Final = 200
SOURCE: Final = "/esper/benchmark/bare-loop"


def fold_in_bare_loop(
    servers: str, starts: Mapping[int, int], reports: int, group: str
) -> list[float]:
    """Fold `reports` reports from the offsets `starts` (by partition) in a new process.

    Return the publication times of the decisions, in seconds since the epoch.

    Raises:
        BenchmarkError: the process ended early or timed out.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, servers, dict(starts), reports, group), daemon=True
    )
    process.start()
    # While this end is open here, `poll` would not notice that the process died.
    theirs.close()
    try:
        if not ours.poll(TIMEOUT_S):
            raise BenchmarkError(f"the bare loop did not fold {reports} reports in {TIMEOUT_S:g} s")
        published_s: list[float] = ours.recv()
        return published_s
    except EOFError:
        raise BenchmarkError("the bare loop ended early; its error is above") from None
    finally:
        process.kill()
        process.join()


def _serve(
    link: Connection, servers: str, starts: dict[int, int], reports: int, group: str
) -> None:
    link.send(asyncio.run(_fold_all(servers, starts, reports, group)))


async def _fold_all(servers: str, starts: dict[int, int], reports: int, group: str) -> list[float]:
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
    await producer.start()
    await consumer.start()
    try:
        partitions = {TopicPartition(SEED_METRICS.name, number): number for number in starts}
        consumer.assign(list(partitions))
        for partition, number in partitions.items():
            consumer.seek(partition, starts[number])
        return await _Loop(consumer, producer).run(reports)
    finally:
        await consumer.stop()
        await producer.stop()


class _Loop:
    def __init__(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        self._consumer = consumer
        self._producer = producer
        self._states: dict[str, FoldState] = {}
        self._published_s: list[float] = []

    async def run(self, reports: int) -> list[float]:
        """Fold `reports` reports; return the publication times of the decisions."""
        folded = 0
        while folded < reports:
            batches = await self._consumer.getmany(timeout_ms=POLL_MS)
            sends: list[asyncio.Future[Any]] = []
            for messages in batches.values():
                for message in messages:
                    result = self._fold(Record.from_client(message))
                    for candidates in result.candidates:
                        sends.append(await self._publish(DECISION_CANDIDATES, candidates))
                    for decision in result.decisions:
                        self._published_s.append(time.time())
                        sends.append(await self._publish(ADAPTATION_DECISION, decision))
                    folded += 1
            await asyncio.gather(*sends)
            if batches:
                await self._consumer.commit()
        return self._published_s

    def _fold(self, record: Record) -> Folded:
        report = decode(SeedReport, record.value)
        folded = fold(self._states.get(report.run_id), report, cause_of(record, report))
        self._states[report.run_id] = folded.state
        return folded

    async def _publish(self, topic: Topic, event: Event) -> "asyncio.Future[Any]":
        value = encode(event)
        confirmed: asyncio.Future[Any] = await self._producer.send(
            topic.name,
            value,
            key=topic.key_of(event),
            headers=list(cloud_event_headers(type(event).__name__, value, source=SOURCE)),
        )
        return confirmed
