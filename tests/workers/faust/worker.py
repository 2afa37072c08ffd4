"""A worker for the tests of the guards; what it does with a record is written in the record.

A record's value is its number, and optionally a word: `hang` is never finished, `raise` raises,
`cancelled` ends as if a task that it awaits was cancelled, `sleep` takes half a second, `work`
5 ms. A tame worker ignores the word. Every step is a line in the journal, which survives `kill
-9`: the machine's monotonic time in nanoseconds, then `ready`, `start NUMBER PARTITION OFFSET` or
`done NUMBER PARTITION OFFSET`.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from faust import EventT, StreamT

from esper.topics.bus import Record
from esper.workers.faust.app import batch_topic, bytes_table, make_app, raw_topic, run
from esper.workers.faust.guards import (
    Guard,
    GuardedApp,
    RecordBatch,
    guarded,
    process_batches,
    process_in_order,
    records_of,
    table_writes_for,
)
from esper.workers.faust.guards.guarded import GuardedConsumer

CONCURRENCY = 4
SLEEP_S = 0.5
WORK_S = 0.005


class Journal:
    """Appends whole lines to a file, each in one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: object) -> None:
        line = " ".join(map(str, (time.monotonic_ns(), *words)))
        os.write(self._file, f"{line}\n".encode())


class Handler:
    """Does with a record what its value says."""

    def __init__(self, journal: Journal, *, tame: bool) -> None:
        self._journal = journal
        self._tame = tame

    async def __call__(self, event: EventT[bytes]) -> None:
        await self._handle(event.value, event.message.partition, event.message.offset)

    async def record(self, record: Record) -> None:
        """Handle one record of a record batch."""
        await self._handle(record.value or b"", record.partition, record.offset)

    async def _handle(self, value: bytes, partition: int, offset: int) -> None:
        number, _, word = value.decode().partition(" ")
        where = (number, partition, offset)
        self._journal.write("start", *where)
        if not self._tame:
            await self._obey(word)
        self._journal.write("done", *where)

    async def _obey(self, word: str) -> None:
        match word:
            case "hang":
                await asyncio.Event().wait()
            case "cancelled":
                raise asyncio.CancelledError
            case "raise":
                raise RuntimeError("as the record says")
            case "sleep":
                await asyncio.sleep(SLEEP_S)
            case "work":
                await asyncio.sleep(WORK_S)


Agent = Callable[[StreamT[bytes]], Coroutine[Any, Any, None]]


def automatic(handle: Handler) -> Agent:
    """As Faust's manual has it: one after the other, acknowledged by the stream."""

    async def agent(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await handle(event)

    return agent


def unordered(handle: Handler) -> Agent:
    """All at once, each acknowledged when it is done."""

    async def agent(stream: StreamT[bytes]) -> None:
        manual = stream.noack()

        async def work(event: EventT[bytes]) -> None:
            await handle(event)
            await manual.ack(event)

        async with asyncio.TaskGroup() as tasks:
            async for event in manual.events():
                tasks.create_task(work(event))

    return agent


def in_order(handle: Handler) -> Agent:
    """Through `process_in_order`."""

    async def agent(stream: StreamT[bytes]) -> None:
        await process_in_order(stream, handle, concurrency=CONCURRENCY)

    return agent


def in_batches(handle: Handler, app: GuardedApp, partitions: int) -> Agent:
    """Through `process_batches`, with a table write for each record."""
    table = bytes_table(app, "seen", partitions)

    async def handle_batch(record_batches: Sequence[RecordBatch]) -> None:
        for record_batch in record_batches:
            for record in records_of(record_batch.message):
                await handle.record(record)
                with table_writes_for(record_batch):
                    table[record.key] = record.value

    async def agent(stream: StreamT[tuple[Record, ...]]) -> None:
        await process_batches(stream, handle_batch, max_records=16)

    return agent


def with_table(handle: Handler, app: GuardedApp, partitions: int) -> Agent:
    """One after the other, with a table write for each record."""
    table = bytes_table(app, "seen", partitions)

    async def agent(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await handle(event)
            table[event.key] = event.value

    return agent


def main() -> int:
    """Run one worker as the arguments say and return its exit code."""
    logging.basicConfig(level=logging.WARNING)
    options = _options()
    journal = Journal(options.journal)
    app = make_app(
        options.app_id,
        bootstrap_servers=options.bootstrap_servers,
        data_dir=options.data_dir,
        instance_id=options.instance_id,
        heartbeat_interval_s=0.3,
        drain_timeout_s=2.0,
        guards=[Guard(name) for name in options.guards],
    )
    app.conf.broker_commit_interval = 0.2
    handle = Handler(journal, tame=options.tame)
    agents: dict[str, Callable[[], Agent]] = {
        "automatic": lambda: automatic(handle),
        "unordered": lambda: unordered(handle),
        "in-order": lambda: in_order(handle),
        "in-batches": lambda: in_batches(handle, app, options.partitions),
        "with-table": lambda: with_table(handle, app, options.partitions),
    }
    topic_of = batch_topic if options.agent == "in-batches" else raw_topic
    app.agent(topic_of(app, options.topic), name="agent")(agents[options.agent]())
    if options.max_in_flight_bytes:
        guarded.MAX_IN_FLIGHT_BYTES = options.max_in_flight_bytes
    if options.slow_seek:
        _slow_down_seeks(options.slow_seek)

    @app.task
    async def ready() -> None:
        journal.write("ready")

    return run(app, topics={options.topic: options.partitions})


def _slow_down_seeks(seconds: float) -> None:
    """Widen the window between a seek and what follows it, in which records can get lost."""
    perform_seek = GuardedConsumer.perform_seek

    async def slow(consumer: GuardedConsumer) -> None:
        await perform_seek(consumer)
        await asyncio.sleep(seconds)

    GuardedConsumer.perform_seek = slow  # type: ignore[method-assign]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap-servers", "app-id", "topic", "agent", "instance-id"):
        parser.add_argument(f"--{name}")
    for name in ("journal", "data-dir"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--partitions", type=int)
    parser.add_argument("--slow-seek", type=float, default=0.0)
    parser.add_argument("--max-in-flight-bytes", type=int, default=0)
    parser.add_argument("--guards", nargs="*", default=[])
    parser.add_argument("--tame", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
