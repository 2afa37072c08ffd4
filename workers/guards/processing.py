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

Handle = Callable[[EventT[bytes]], Awaitable[None]]
HandleBatch = Callable[[Sequence[EventT[bytes]]], Awaitable[None]]


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
    stream: StreamT[bytes], handle_batch: HandleBatch, *, max_records: int, within_s: float
) -> None:
    """Call `handle_batch` on the events that have arrived, in order, until the stream ends.

    A batch holds at most `max_records`; after its first event it waits `within_s` seconds for
    more. All of it is acknowledged, in order, when `handle_batch` returns. Table writes need
    `table_writes_for(event)`.

    Raises:
        ExceptionGroup: `handle_batch` raised; the batch and all after it stay unacknowledged.
    """
    source = cast(Stream[Any], stream).noack()
    arrived: asyncio.Queue[EventT[bytes] | None] = asyncio.Queue(max_records)

    async def read() -> None:
        async for event in source.events():
            await arrived.put(event)
        await arrived.put(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        while batch := await _next_batch(arrived, max_records, within_s):
            await handle_batch(batch)
            for event in batch:
                await source.ack(event)


async def _next_batch(
    arrived: asyncio.Queue[EventT[bytes] | None], max_records: int, within_s: float
) -> list[EventT[bytes]]:
    """Take a batch from the queue; it is empty when the stream has ended."""
    first = await arrived.get()
    if first is None:
        return []
    batch = [first]
    if arrived.qsize() < max_records - 1 and within_s > 0:
        await asyncio.sleep(within_s)
    while len(batch) < max_records and not arrived.empty():
        event = arrived.get_nowait()
        if event is None:
            arrived.put_nowait(None)
            break
        batch.append(event)
    return batch


@contextmanager
def table_writes_for(event: EventT[bytes]) -> Iterator[None]:
    """Send the changelog of the table writes made inside to the partition of this event."""
    token = _current_event.set(weakref.ref(event))
    try:
        yield
    finally:
        _current_event.reset(token)
