"""Working through a stream so that a record is acknowledged only when all before it are done."""

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

MAX_WAITING_PARCELS = 16
"""Parcels taken from the stream beside the batch in work; stopping waits for all of them."""

Handle = Callable[[EventT[bytes]], Awaitable[None]]
HandleBatch = Callable[[Sequence[RecordBatch]], Awaitable[None]]


async def process_in_order(stream: StreamT[bytes], handle: Handle, *, concurrency: int = 1) -> None:
    """Call `handle` on each event, up to `concurrency` at a time, until the stream ends.

    Events start in order and may finish in any; each partition is acknowledged in order, up to
    the oldest event still in work. Table writes of `handle` go to its event's partition.

    Raises:
        ExceptionGroup: `handle` raised; its event and all after it stay unacknowledged.
    """
    source = cast(Stream[Any], stream).noack()
    events = aiter(source.events())
    slots = asyncio.Semaphore(concurrency)
    lanes: defaultdict[TP, deque[EventT[bytes]]] = defaultdict(deque)
    done: set[EventT[bytes]] = set()

    async def work(event: EventT[bytes]) -> None:
        await handle(event)
        done.add(event)
        lane = lanes[event.message.tp]
        while lane and lane[0] in done:
            done.remove(lane[0])
            await source.ack(lane.popleft())
        slots.release()

    async with asyncio.TaskGroup() as tasks:
        while True:
            # A slot first: an event taken from the stream must start, or stopping waits for it.
            await slots.acquire()
            event = await anext(events, None)
            if event is None:
                return
            lanes[event.message.tp].append(event)
            tasks.create_task(work(event))


async def process_batches(
    stream: StreamT[tuple[Record, ...]], handle_batch: HandleBatch, *, max_records: int
) -> None:
    """Call `handle_batch` on the parcels that have arrived, in order, until the stream ends.

    A batch takes no further parcel once it holds `max_records`. All of it is acknowledged, in
    order, when `handle_batch` returns. Table writes need `table_writes_for(parcel)`.

    Raises:
        ExceptionGroup: `handle_batch` raised; the batch and all after it stay unacknowledged.
    """
    source = cast(Stream[Any], stream).noack()
    arrived: asyncio.Queue[RecordBatch | None] = asyncio.Queue(MAX_WAITING_PARCELS)

    async def read() -> None:
        async for record_batch in source.events():
            await arrived.put(record_batch)
        await arrived.put(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while batch := await _next_batch(arrived, max_records):
            await handle_batch(batch)
            for record_batch in batch:
                await source.ack(record_batch)


async def _next_batch(
    arrived: asyncio.Queue[RecordBatch | None], max_records: int
) -> list[RecordBatch]:
    """Take a batch from the queue; it is empty when the stream has ended."""
    batch: list[RecordBatch] = []
    records = 0
    while not batch or (records < max_records and not arrived.empty()):
        record_batch = await arrived.get()
        if record_batch is None:
            arrived.put_nowait(None)
            break
        batch.append(record_batch)
        records += len(records_of(record_batch.message))
    return batch


@contextmanager
def table_writes_for(event: EventT[Any]) -> Iterator[None]:
    """Send the changelog of the table writes made inside to the partition of this event."""
    token = _current_event.set(weakref.ref(event))
    try:
        yield
    finally:
        _current_event.reset(token)
