"""Turns to compile: one request of a kernel at a time, and suspects alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KernelLocks:
    """One lock for each kernel that is in work: repeated requests wait for the first one."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def holding(self, kernel_id: str) -> AsyncIterator[None]:
        """Hold the lock of a kernel within the block."""
        lock, users = self._locks.get(kernel_id, (asyncio.Lock(), 0))
        self._locks[kernel_id] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[kernel_id]
            if users == 1:
                del self._locks[kernel_id]
            else:
                self._locks[kernel_id] = lock, users - 1


class CompileTurns:
    """Kernels compile together, except those that must be alone.

    Of several kernels in work when a worker was killed, one may have killed it. Each is compiled
    alone then: a poison kernel uses up its own attempts, not those of its neighbours.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._together = 0
        self._alone = False
        self._waiting_alone = 0

    @asynccontextmanager
    async def taken(self, *, alone: bool) -> AsyncIterator[None]:
        """Take a turn within the block."""
        if alone:
            await self._enter_alone()
        else:
            await self._enter_together()
        try:
            yield
        finally:
            async with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._together -= 1
                self._changed.notify_all()

    async def _enter_together(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not (self._alone or self._waiting_alone))
            self._together += 1

    async def _enter_alone(self) -> None:
        async with self._changed:
            self._waiting_alone += 1
            try:
                await self._changed.wait_for(lambda: not (self._alone or self._together))
                self._alone = True
            finally:
                self._waiting_alone -= 1
