"""A pool of warm processes for one stage; processes that hang or die are replaced.

Each process is in a pebble pool of size 1, with its own pipes and locks, so that a process that
dies cannot block another.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from threading import Thread
from time import monotonic, perf_counter
from typing import Final, TypeVar

from pebble import ProcessExpired, ProcessPool

from esper.blueprint import RejectionCode
from esper.compiler import job
from esper.compiler.fork_server import SERVER_LOST, ForkServer
from esper.compiler.limits import ProcessLimits, is_out_of_memory
from esper.compiler.results import Rejected, StageResult, from_bytes
from esper.compiler.timing import MILLISECONDS
from esper.errors import EsperError

START_TIMEOUT_S: Final = 60.0
"""A process that is not warm after this time has failed to start."""

START_POLL_S: Final = 0.01

ATTEMPTS: Final = 2
"""A process that dies or hangs before its job begins is replaced, and the job retried once.

So is a job whose process ended with the fork server."""

log = logging.getLogger(__name__)

T = TypeVar("T")


class PoolBroken(EsperError, RuntimeError):
    """No process can be started; its error is on standard error."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The work of a pool: how its processes warm up, and a function from bytes to bytes."""

    verb: str
    warm: Callable[[ProcessLimits], None]
    work: Callable[[bytes, float], bytes]


COMPILE: Final = Stage("compile", job.warm_compiler, job.compile_request)
VALIDATE: Final = Stage("validate", job.warm_validator, job.validate_artifact)


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a job, the milliseconds it waited for a process, and those it ran."""

    outcome: StageResult
    wait_ms: float
    call_ms: float


class WorkerPool:
    """A fixed number of processes for one stage, fed by one asyncio event loop."""

    def __init__(
        self, stage: Stage, processes: int, limits: ProcessLimits, server: ForkServer
    ) -> None:
        """Fork the processes from the server; `wait_warm` waits until they are warm.

        Raises:
            PoolBroken: the server does not start.
        """
        self._stage = stage
        self._limits = limits
        self._workers = tuple(_Worker(stage, limits, server) for _ in range(processes))
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._started = [worker.start() for worker in self._workers]

    def wait_warm(self) -> None:
        """Wait until all processes are warm.

        Raises:
            PoolBroken: a process did not start.
        """
        for worker, answer in zip(self._workers, self._started, strict=True):
            try:
                answer.result(START_TIMEOUT_S)
            except (TimeoutError, BrokenProcessPool) as error:
                raise PoolBroken(
                    f"a process to {self._stage.verb} did not start; its error is on standard error"
                ) from error
            self._idle.put_nowait(worker)

    async def call(self, data: bytes, spent_ms: float = 0.0) -> JobResult:
        """Run one job when a process is free; `spent_ms` of its wall limit is already used.

        A job that exceeds a limit is rejected as `timeout` or `out-of-memory`; a timeout kills
        its process. A job whose process dies, or that raises, is rejected as `crashed`.

        Raises:
            PoolBroken: no process can be started.
        """
        arrived = perf_counter()
        worker = await self._idle.get()
        begun = perf_counter()
        left_s = max(0.0, self._limits.wall_s - spent_ms / MILLISECONDS)
        try:
            outcome = await self._outcome(worker, data, left_s)
        finally:
            self._idle.put_nowait(worker)
        ended = perf_counter()
        return JobResult(outcome, (begun - arrived) * MILLISECONDS, (ended - begun) * MILLISECONDS)

    def close(self) -> None:
        """Stop all processes and wait until they have ended; running jobs are abandoned."""
        for worker in self._workers:
            worker.close()

    async def _outcome(self, worker: "_Worker", data: bytes, wall_s: float) -> StageResult:
        verb, limits = self._stage.verb, self._limits
        try:
            return from_bytes(await worker.call(data, wall_s))
        except PoolBroken:
            raise
        except TimeoutError:
            reason = f"took over {limits.wall_s:g} s of wall time to {verb} and was stopped"
            return Rejected(RejectionCode.TIMEOUT, reason)
        except ProcessExpired as death:
            if death.exitcode == -signal.SIGXCPU:
                reason = f"took over {limits.cpu_s:g} s of CPU time to {verb} and was stopped"
                return Rejected(RejectionCode.TIMEOUT, reason)
            reason = f"the process to {verb} the kernel died with exit code {death.exitcode}"
            return Rejected(RejectionCode.CRASHED, reason)
        except Exception as error:
            if is_out_of_memory(error):
                reason = f"needs over {limits.memory_mb} MiB to {verb}: {_first_line(error)}"
                return Rejected(RejectionCode.OUT_OF_MEMORY, reason)
            # A blueprint exposed a bug of ours; the worker must go on.
            log.exception("could not %s a kernel: unexpected error", verb)
            return Rejected(RejectionCode.CRASHED, _first_line(error))


def _was_lost(error: BaseException | None) -> bool:
    """Return whether a job ended for a reason that it has no part in."""
    lost = isinstance(error, ProcessExpired) and error.exitcode == SERVER_LOST
    return lost or isinstance(error, BrokenProcessPool)


async def _begun(scheduled: Future[bytes], future: asyncio.Future[bytes]) -> bool:
    """Wait until a job has begun; False if it has not within `START_TIMEOUT_S`.

    A job never begins if a process died holding the pipe's lock.
    """
    deadline = monotonic() + START_TIMEOUT_S
    while not (future.done() or scheduled.running()):
        if monotonic() > deadline:
            return False
        await asyncio.wait({future}, timeout=START_POLL_S)
    return True


def _first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class _Worker:
    """One process and its replacements."""

    def __init__(self, stage: Stage, limits: ProcessLimits, server: ForkServer) -> None:
        self._stage = stage
        self._limits = limits
        self._server = server
        self._pool = self._new_pool()

    def start(self) -> Future[int]:
        """Start the process; the future gives its pid once the process is warm."""
        return self._submit(job.ready)

    async def call(self, data: bytes, wall_s: float) -> bytes:
        """Run the stage's work in the process, for at most `wall_s` from the start of the job.

        Pebble's own timeout is not used: it goes by the wall clock, which may jump.

        Raises:
            TimeoutError: the job took longer.
            ProcessExpired: the process died during the job.
            PoolBroken: no process could be started.
            Exception: the work raised it.
        """
        for _ in range(ATTEMPTS):
            scheduled = self._schedule(data)
            future = asyncio.wrap_future(scheduled)
            try:
                if await _begun(scheduled, future):
                    await asyncio.wait({future}, timeout=wall_s)
                    if not future.done():
                        raise TimeoutError
                    if not _was_lost(future.exception()):
                        return future.result()
            finally:
                future.cancel()  # Pebble kills the process of a job that runs.
            log.warning("replacing a process to %s: it ended or does not respond", self._stage.verb)
            self._renew()
        raise PoolBroken(f"no process to {self._stage.verb} started in {ATTEMPTS} attempts")

    def close(self) -> None:
        """Stop the process and wait until it has ended."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _schedule(self, data: bytes) -> Future[bytes]:
        if not self._pool.active:
            self._renew()
        return self._submit(self._stage.work, data, self._limits.cpu_s)

    def _submit(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        try:
            return self._pool.schedule(work, args=arguments)
        except BrokenProcessPool as error:
            raise PoolBroken(
                f"a process to {self._stage.verb} cannot be forked; the error is on standard error"
            ) from error

    def _renew(self) -> None:
        retired, self._pool = self._pool, self._new_pool()
        retired.stop()  # type: ignore[no-untyped-call]
        # join() may block on a process that hangs; the event loop must not.
        Thread(target=retired.join, name="retire-process", daemon=True).start()

    def _new_pool(self) -> ProcessPool:
        # Not forked from this process, whose keys, sockets and locks they would inherit.
        return ProcessPool(
            max_workers=1,
            initializer=self._stage.warm,
            initargs=(self._limits,),
            context=self._server.context,
        )
