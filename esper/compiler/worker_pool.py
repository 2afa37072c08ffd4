"""A crew: warm processes of one trade, that may hang or die without harm, and are replaced.

Each process is a pebble pool of its own, with pipes and locks of its own: what happens to one
cannot touch the others.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from threading import Thread
from time import perf_counter
from typing import Final

from pebble import ProcessExpired, ProcessPool

from esper.blueprint import RejectionCode
from esper.compiler import job
from esper.compiler.limits import ProcessLimits, is_out_of_memory
from esper.compiler.results import Rejected, StageResult, from_bytes
from esper.compiler.spawn import SealedContext
from esper.compiler.timing import MILLISECONDS

START_TIMEOUT_S: Final = 60.0
"""A process that has not loaded torch by then is given up."""

LEAST_S: Final = 1e-3

ATTEMPTS: Final = 2
"""A process found dead or mute before its job began is replaced, and the job tried once more."""

log = logging.getLogger(__name__)


class PoolBroken(RuntimeError):
    """No process can be started; what it said is on standard error."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a crew does: how its processes warm up, and the function from bytes to bytes."""

    verb: str
    warm: Callable[[ProcessLimits], None]
    work: Callable[[bytes, float], bytes]


COMPILE: Final = Stage("compile", job.warm_compiler, job.compile_request)
VALIDATE: Final = Stage("validate", job.warm_validator, job.validate_artifact)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job, with the milliseconds it waited for a process and was there for."""

    outcome: StageResult
    wait_ms: float
    call_ms: float


class WorkerPool:
    """A fixed number of processes of one trade, fed by one asyncio event loop."""

    def __init__(self, stage: Stage, processes: int, limits: ProcessLimits) -> None:
        """Begin to start the processes; `wait_warm` says when they are there."""
        self._trade = stage
        self._limits = limits
        self._workers = tuple(_Worker(stage, limits) for _ in range(processes))
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._started = [worker.start() for worker in self._workers]

    def wait_warm(self) -> None:
        """Wait until all processes are warm.

        Raises:
            PoolBroken: one of them did not come up.
        """
        for worker, answer in zip(self._workers, self._started, strict=True):
            try:
                answer.result(START_TIMEOUT_S)
            except (TimeoutError, BrokenProcessPool) as error:
                raise PoolBroken(f"no process to {self._trade.verb} started; see above") from error
            self._idle.put_nowait(worker)

    async def call(self, data: bytes, spent_ms: float = 0.0) -> JobResult:
        """Do one job as soon as a process is free, of whose wall time `spent_ms` are gone.

        A job that exceeds a limit is killed with its process and rejected as `timeout` or
        `out-of-memory`; one whose process dies, or that fails in a way it should not, as `crashed`.

        Raises:
            PoolBroken: no process can be started any more.
        """
        arrived = perf_counter()
        worker = await self._idle.get()
        begun = perf_counter()
        # To pebble, no time at all would mean no limit.
        left_s = max(LEAST_S, self._limits.wall_s - spent_ms / MILLISECONDS)
        try:
            outcome = await self._outcome(worker, data, left_s)
        finally:
            self._idle.put_nowait(worker)
        ended = perf_counter()
        return JobResult(outcome, (begun - arrived) * MILLISECONDS, (ended - begun) * MILLISECONDS)

    def close(self) -> None:
        """Stop all processes, and wait until they are gone; jobs in work are abandoned."""
        for worker in self._workers:
            worker.close()

    async def _outcome(self, worker: "_Worker", data: bytes, wall_s: float) -> StageResult:
        verb, limits = self._trade.verb, self._limits
        try:
            return from_bytes(await worker.call(data, wall_s))
        except PoolBroken:
            raise
        except TimeoutError:
            reason = f"took over {limits.wall_s:g} s and was stopped; it was there to {verb}"
            return Rejected(RejectionCode.TIMEOUT, reason)
        except ProcessExpired as death:
            if death.exitcode == -signal.SIGXCPU:
                reason = f"took over {limits.cpu_s:g} s of processor time to {verb}"
                return Rejected(RejectionCode.TIMEOUT, reason)
            reason = f"the process to {verb} it died with exit code {death.exitcode}"
            return Rejected(RejectionCode.CRASHED, reason)
        except Exception as error:
            if is_out_of_memory(error):
                reason = f"needs over {limits.memory_mb} MiB to {verb}: {_first_line(error)}"
                return Rejected(RejectionCode.OUT_OF_MEMORY, reason)
            # A stranger's blueprint found a fault of ours: that must not stop the worker.
            log.exception("a kernel could not be handled: %s failed", verb)
            return Rejected(RejectionCode.CRASHED, _first_line(error))


def _first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class _Worker:
    """One process, and its replacements."""

    def __init__(self, stage: Stage, limits: ProcessLimits) -> None:
        self._trade = stage
        self._limits = limits
        self._pool = self._new_pool()

    def start(self) -> Future[int]:
        """Start the process; the answer is its id, and comes when it is warm."""
        return self._pool.schedule(job.ready)

    async def call(self, data: bytes, wall_s: float) -> bytes:
        """Do the work of the trade in the process, within `wall_s` from its start there.

        Raises:
            TimeoutError: it took longer.
            ProcessExpired: the process died while at it.
            PoolBroken: no process could be started for it.
            Exception: whatever the work raised.
        """
        for _ in range(ATTEMPTS):
            future = self._schedule(data, wall_s)
            try:
                # Pebble's limit counts from the start of the job. One that never starts, because
                # a process died with a lock of the pipe, is noticed only by a limit of our own.
                await asyncio.wait({future}, timeout=wall_s + START_TIMEOUT_S)
                if future.done() and not isinstance(future.exception(), BrokenProcessPool):
                    return future.result()
            finally:
                future.cancel()
            log.warning("replacing a process to %s: gone, or does not answer", self._trade.verb)
            self._renew()
        raise PoolBroken(f"no process to {self._trade.verb} started in {ATTEMPTS} attempts")

    def close(self) -> None:
        """Stop the process and wait until it is gone."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _schedule(self, data: bytes, wall_s: float) -> asyncio.Future[bytes]:
        if not self._pool.active:
            self._renew()
        arguments = (data, self._limits.cpu_s)
        scheduled = self._pool.schedule(self._trade.work, args=arguments, timeout=wall_s)
        return asyncio.wrap_future(scheduled)

    def _renew(self) -> None:
        retired, self._pool = self._pool, self._new_pool()
        retired.stop()  # type: ignore[no-untyped-call]
        # Joining may wait for a process that does not answer; the event loop must not.
        Thread(target=retired.join, name="retire-process", daemon=True).start()

    def _new_pool(self) -> ProcessPool:
        # Spawned, not forked: a forked child would hold the parent's keys, sockets and locks.
        return ProcessPool(
            max_workers=1,
            initializer=self._trade.warm,
            initargs=(self._limits,),
            context=SealedContext(),
        )
