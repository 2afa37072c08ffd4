"""Process a stream so that a record is acknowledged only when all records before it are done."""

import asyncio
import weakref
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from faust import EventT, Stream, StreamT
from faust.streams import _current_event
from faust.types import TP

from esper.topics.bus import Record
from esper.workers.faust.guards.record_batches import RecordBatch, records_of

MAX_QUEUED_BATCHES = 16
"""Record batches taken from the stream ahead of the ones in work; a shutdown waits for them."""

Handle = Callable[[EventT[bytes]], Awaitable[None]]
HandleBatch = Callable[[Sequence[RecordBatch]], Awaitable[None]]


async def process_in_order(stream: StreamT[bytes], handle: Handle, *, concurrency: int = 1) -> None:
    """Call `handle` on each event, up to `concurrency` at a time, until the stream ends.

    Events start in order and may finish in any order. Each partition is acknowledged in order, up
    to its oldest in-flight event. Table writes of `handle` go to the partition of its event.

    Raises:
        ExceptionGroup: `handle` raised; its event and all later ones stay unacknowledged.
    """
    source = cast(Stream[Any], stream).noack()
    events = aiter(source.events())
    free_slots = asyncio.Semaphore(concurrency)
    in_flight: defaultdict[TP, deque[EventT[bytes]]] = defaultdict(deque)
    done: set[EventT[bytes]] = set()

    async def work(event: EventT[bytes]) -> None:
        await handle(event)
        done.add(event)
        partition = in_flight[event.message.tp]
        while partition and partition[0] in done:
            done.remove(partition[0])
            await source.ack(partition.popleft())
        free_slots.release()

    async with asyncio.TaskGroup() as tasks:
        while True:
            # Take the slot first: a shutdown waits for every event taken from the stream.
            await free_slots.acquire()
            event = await anext(events, None)
            if event is None:
                return
            in_flight[event.message.tp].append(event)
            tasks.create_task(work(event))


async def process_batches(
    stream: StreamT[tuple[Record, ...]], handle_batch: HandleBatch, *, max_records: int
) -> None:
    """Call `handle_batch` on the record batches that have arrived, in order, until the stream ends.

    One call takes record batches until it has `max_records`. All of them are acknowledged, in
    order, when `handle_batch` returns. Table writes need `table_writes_for(record_batch)`.

    Raises:
        ExceptionGroup: `handle_batch` raised; its records and all later ones stay unacknowledged.
    """
    source = cast(Stream[Any], stream).noack()
    arrived: asyncio.Queue[RecordBatch | None] = asyncio.Queue(MAX_QUEUED_BATCHES)

    async def read() -> None:
        async for record_batch in source.events():
            await arrived.put(record_batch)
        await arrived.put(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while record_batches := await _next_batches(arrived, max_records):
            await handle_batch(record_batches)
            for record_batch in record_batches:
                await source.ack(record_batch)


async def _next_batches(
    arrived: asyncio.Queue[RecordBatch | None], max_records: int
) -> list[RecordBatch]:
    """Take record batches from the queue; an empty list means that the stream has ended."""
    record_batches: list[RecordBatch] = []
    records = 0
    while not record_batches or (records < max_records and not arrived.empty()):
        record_batch = await arrived.get()
        if record_batch is None:
            arrived.put_nowait(None)
            break
        record_batches.append(record_batch)
        records += len(records_of(record_batch.message))
    return record_batches


@contextmanager
def table_writes_for(event: EventT[Any]) -> Iterator[None]:
    """Send the changelog records of table writes in the block to the partition of `event`."""
    token = _current_event.set(weakref.ref(event))
    try:
        yield
    finally:
        _current_event.reset(token)
