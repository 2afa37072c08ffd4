"""Store kernels durably: a kernel is announced only once the last tier of the store has it."""

import asyncio

import structlog

from esper.store import KernelStore, StoreUnavailable
from esper.workers.faust.metrics import KERNELS_STORED, STORE_RETRIES

log = structlog.get_logger()

RETRY_S = 0.5
MAX_RETRY_S = 10.0
"""Pauses between attempts to store a kernel: the first one, and the longest."""

REFILL_PAUSE_S = 2.0
"""Pause between attempts to copy to a cache what it missed while it was down."""


class KernelWriter:
    """Writes kernels to a store from an event loop."""

    def __init__(self, store: KernelStore) -> None:
        self._store = store
        self._refilling: asyncio.Task[None] | None = None

    async def put(self, kernel_id: str, artifact: bytes) -> str:
        """Store an artifact and return its location; retry until the durable tier has it.

        A cache that fails does not delay this; it gets the kernel once it answers.
        """
        pause_s = RETRY_S
        while True:
            try:
                stored = await asyncio.to_thread(self._store.put, kernel_id, artifact)
            except StoreUnavailable as error:
                why = str(error)
            else:
                KERNELS_STORED.labels("degraded" if stored.degraded else "durable").inc()
                if stored.durable:
                    if stored.degraded and self._refilling is None:
                        self._refilling = asyncio.create_task(self._refill())
                    return stored.location
                why = "; ".join(stored.failed.values())
            pause_s = await self._paused(why, pause_s)

    async def is_durable(self, location: str) -> bool:
        """Return whether the durable tier has the kernel, unaltered; wait while it is away."""
        pause_s = RETRY_S
        while True:
            try:
                return await asyncio.to_thread(self._store.is_durable, location)
            except StoreUnavailable as error:
                pause_s = await self._paused(str(error), pause_s)

    async def _paused(self, why: str, pause_s: float) -> float:
        """Count and log a failure, and pause; return the next pause."""
        STORE_RETRIES.inc()
        log.warning("kernel store unavailable; retrying", why=why, in_s=pause_s)
        await asyncio.sleep(pause_s)
        return min(2 * pause_s, MAX_RETRY_S)

    async def _refill(self) -> None:
        """Copy to the caches what they missed, once they answer: trainers may read them alone."""
        while not await asyncio.to_thread(self._store.refill):
            await asyncio.sleep(REFILL_PAUSE_S)
        self._refilling = None
