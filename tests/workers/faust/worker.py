"""A worker for the tests of the guards; each record tells the worker how to process it.

A record's value is its number and an optional command: `hang` never finishes, `raise` raises,
`cancelled` raises CancelledError, `sleep` takes 0.5 s, `work` 5 ms. With `--ignore-commands` all
records finish at once. Every step is a line in the journal, which survives `kill -9`: monotonic
time in ns, then `ready`, `commit` or `fetch` (a pass has ended), `start NUMBER PARTITION OFFSET`
or `done NUMBER PARTITION OFFSET`.
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
    """Processes a record by the command in its value."""

    def __init__(self, journal: Journal, *, ignore_commands: bool) -> None:
        self._journal = journal
        self._ignore_commands = ignore_commands

    async def __call__(self, event: EventT[bytes]) -> None:
        await self._handle(event.value, event.message.partition, event.message.offset)

    async def record(self, record: Record) -> None:
        """Handle one record of a record batch."""
        await self._handle(record.value or b"", record.partition, record.offset)

    async def _handle(self, value: bytes, partition: int, offset: int) -> None:
        number, _, word = value.decode().partition(" ")
        where = (number, partition, offset)
        self._journal.write("start", *where)
        if not self._ignore_commands:
            await self._run_command(word)
        self._journal.write("done", *where)

    async def _run_command(self, word: str) -> None:
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
    """Return an agent as in Faust's manual: one record at a time, acknowledged by the stream."""

    async def agent(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await handle(event)

    return agent


def unordered(handle: Handler) -> Agent:
    """Return an agent that processes all records concurrently and acknowledges each when done."""

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
    """Return an agent that uses `process_in_order`."""

    async def agent(stream: StreamT[bytes]) -> None:
        await process_in_order(stream, handle, concurrency=CONCURRENCY)

    return agent


def in_batches(handle: Handler, app: GuardedApp, partitions: int) -> Agent:
    """Return an agent that uses `process_batches`, with a table write per record."""
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
    """Return an agent that processes one record at a time, with a table write per record."""
    table = bytes_table(app, "seen", partitions)

    async def agent(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            await handle(event)
            table[event.key] = event.value

    return agent


def main() -> int:
    """Run one worker; return its exit code."""
    logging.basicConfig(level=logging.WARNING)
    options = _options()
    journal = Journal(options.journal)
    app = make_app(
        options.app_id,
        bootstrap_servers=options.bootstrap_servers,
        data_dir=options.data_dir,
        instance_id=options.instance_id,
        # The shortest that a broker allows: a killed worker's partitions are taken over soon.
        session_timeout_s=6.0,
        heartbeat_interval_s=0.3,
        drain_timeout_s=2.0,
        guards=[Guard(name) for name in options.guards],
    )
    app.conf.broker_commit_interval = 0.2
    handle = Handler(journal, ignore_commands=options.ignore_commands)
    agents: dict[str, Callable[[], Agent]] = {
        "automatic": lambda: automatic(handle),
        "unordered": lambda: unordered(handle),
        "in-order": lambda: in_order(handle),
        "in-batches": lambda: in_batches(handle, app, options.partitions),
        "with-table": lambda: with_table(handle, app, options.partitions),
    }
    topic_of = batch_topic if options.agent == "in-batches" else raw_topic
    app.agent(topic_of(app, options.topic), name="agent")(agents[options.agent]())
    _journal_passes(journal)
    if options.max_in_flight_bytes:
        guarded.MAX_IN_FLIGHT_BYTES = options.max_in_flight_bytes
    if options.slow_seek:
        _slow_down_seeks(options.slow_seek)

    @app.task
    async def ready() -> None:
        journal.write("ready")

    return run(app, topics={options.topic: options.partitions})


def _journal_passes(journal: Journal) -> None:
    """Write a line after each commit and each fetch, also if it had nothing to do."""

    def journaled(what: str, method: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await method(*args, **kwargs)
            journal.write(what)
            return result

        return call

    GuardedConsumer.commit = journaled("commit", GuardedConsumer.commit)  # type: ignore[method-assign]
    GuardedConsumer._getmany = journaled("fetch", GuardedConsumer._getmany)  # type: ignore[method-assign]


def _slow_down_seeks(seconds: float) -> None:
    """Delay the steps after a seek, to widen the window in which records can get lost."""
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
    parser.add_argument("--ignore-commands", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
