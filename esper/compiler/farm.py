"""The compile farm: builds kernels in processes that may hang or die without harm.

Each process is a pebble pool of its own, with pipes and locks of its own: what happens to one
cannot touch the others. Secrets stay out: what a process builds is signed by the caller.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from threading import Thread
from typing import Final, Self, TypeVar

from pebble import ProcessExpired, ProcessPool

from esper.blueprint.rejection import RejectionCode
from esper.compiler import job
from esper.compiler.outcome import Outcome, Rejected, from_bytes
from topics.codec import encode
from topics.models import KernelRequested

START_TIMEOUT_S: Final = 60.0
"""A process that has not loaded torch by then is given up."""

ATTEMPTS: Final = 2
"""A process found dead or mute before its job began is replaced, and the job tried once more."""

R = TypeVar("R")

log = logging.getLogger(__name__)


class FarmBroken(RuntimeError):
    """No compiling process can be started; what it said is on standard error."""


class CompileFarm:
    """A fixed number of warm compiling processes, fed by one asyncio event loop.

    A context manager: on leaving it, the processes are stopped.
    """

    def __init__(self, processes: int, timeout_s: float) -> None:
        """Start `processes` processes and wait until they are warm.

        Each may then take `timeout_s` over one kernel.

        Raises:
            FarmBroken: one of them did not come up.
        """
        self._timeout_s = timeout_s
        self._lanes = tuple(_Lane() for _ in range(processes))
        self._idle: asyncio.Queue[_Lane] = asyncio.Queue()
        started = [lane.start() for lane in self._lanes]
        for lane, answer in zip(self._lanes, started, strict=True):
            try:
                answer.result(START_TIMEOUT_S)
            except (TimeoutError, BrokenProcessPool) as error:
                self.close()
                raise FarmBroken("a compiling process did not start; see above") from error
            self._idle.put_nowait(lane)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def build(self, request: KernelRequested) -> Outcome:
        """Build one kernel as soon as a process is free.

        A job that exceeds the time limit is killed with its process and rejected as `timeout`,
        one whose process dies, or that fails in a way it should not, as `crashed`.

        Raises:
            FarmBroken: no process can be started any more.
        """
        lane = await self._idle.get()
        try:
            return await self._build_in(lane, request)
        finally:
            self._idle.put_nowait(lane)

    def close(self) -> None:
        """Stop all processes, and wait until they are gone; jobs in work are abandoned."""
        for lane in self._lanes:
            lane.close()

    async def _build_in(self, lane: "_Lane", request: KernelRequested) -> Outcome:
        try:
            return from_bytes(await lane.call(job.build, (encode(request),), self._timeout_s))
        except FarmBroken:
            raise
        except TimeoutError:
            return Rejected(
                RejectionCode.TIMEOUT, f"took over {self._timeout_s:g} s to build and was stopped"
            )
        except ProcessExpired as death:
            return Rejected(
                RejectionCode.CRASHED, f"its compiling process died with exit code {death.exitcode}"
            )
        except Exception as error:
            # A stranger's blueprint found a fault of ours: that must not stop the worker.
            log.exception("building kernel %s failed", request.kernel_id)
            return Rejected(RejectionCode.CRASHED, f"{type(error).__name__}: {error}")


class _Lane:
    """One process, and its replacements."""

    def __init__(self) -> None:
        self._pool = _new_pool()

    def start(self) -> Future[int]:
        """Start the process; the answer is its id, and comes when it is warm."""
        return self._pool.schedule(job.ready)

    async def call(
        self, function: Callable[..., R], arguments: tuple[bytes, ...], timeout_s: float
    ) -> R:
        """Run a function in the process, within `timeout_s` from its start there.

        Raises:
            TimeoutError: it took longer.
            ProcessExpired: the process died while at it.
            FarmBroken: no process could be started for it.
            Exception: whatever the function raised.
        """
        for _ in range(ATTEMPTS):
            future = self._schedule(function, arguments, timeout_s)
            try:
                # Pebble's limit counts from the start of the job. One that never starts, because
                # a process died with a lock of the pipe, is noticed only by a limit of our own.
                await asyncio.wait({future}, timeout=timeout_s + START_TIMEOUT_S)
                if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                    return future.result()
            finally:
                future.cancel()
            log.warning("replacing a compiling process that is gone or does not answer")
            self._renew()
        raise FarmBroken(f"a compiling process failed to start {ATTEMPTS} times in a row")

    def close(self) -> None:
        """Stop the process and wait until it is gone."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _schedule(
        self, function: Callable[..., R], arguments: tuple[bytes, ...], timeout_s: float
    ) -> asyncio.Future[R]:
        if not self._pool.active:
            self._renew()
        scheduled = self._pool.schedule(function, args=arguments, timeout=timeout_s)
        return asyncio.wrap_future(scheduled)

    def _renew(self) -> None:
        retired, self._pool = self._pool, _new_pool()
        retired.stop()  # type: ignore[no-untyped-call]
        # Joining may wait for a process that does not answer; the event loop must not.
        Thread(target=retired.join, name="retire-compiling-process", daemon=True).start()


def _new_pool() -> ProcessPool:
    # Spawned, not forked: a forked child would hold the parent's keys, sockets and locks.
    return ProcessPool(max_workers=1, initializer=job.warm, context=get_context("spawn"))
