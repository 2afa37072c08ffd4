"""The compile pool: build kernels in worker processes that may hang or crash.

One `WorkerPool` compiles and another validates. The validator therefore runs the very bytes that
crossed between processes, and each pair of processes works on two kernels at a time. The
processes hold no secrets: the caller signs the artifacts.
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import Final, NamedTuple, Self

from esper.blueprint import RejectionCode
from esper.compiler.fork_server import ForkServer
from esper.compiler.limits import ProcessLimits
from esper.compiler.results import BuildResult, Compiled, Rejected, TimingsMs, Validated, built
from esper.compiler.worker_pool import (
    COMPILE,
    VALIDATE,
    JobResult,
    PoolBroken,
    Stage,
    WorkerPool,
)
from esper.topics.codec import encode, sha256_of
from esper.topics.models import KernelRequested

__all__ = ["STAGES", "CompilePool", "PoolBroken", "Stages"]

DEFAULT_LIMITS: Final = ProcessLimits()


class Stages(NamedTuple):
    """The work of the two kinds of process."""

    compile: Stage = COMPILE
    validate: Stage = VALIDATE


STAGES: Final = Stages()


class CompilePool:
    """Pairs of warm processes, fed by one asyncio event loop.

    As a context manager, the pool stops its processes on exit.
    """

    def __init__(
        self,
        processes: int,
        timeout_s: float | None = None,
        *,
        limits: ProcessLimits = DEFAULT_LIMITS,
        stages: Stages = STAGES,
        server: ForkServer | None = None,
    ) -> None:
        """Start `processes` pairs of processes and wait until they are warm.

        `timeout_s`, if given, replaces `limits.wall_s`. Benchmarks give `stages` of stated cost.
        A `server` that was started earlier has torch sooner; `close` ends it.

        Raises:
            PoolBroken: a process did not start.
        """
        if timeout_s is not None:
            limits = replace(limits, wall_s=timeout_s)
        with ExitStack() as started:
            server = started.enter_context(server or ForkServer())
            self._compilers = WorkerPool(stages.compile, processes, limits, server)
            started.callback(self._compilers.close)
            self._validators = WorkerPool(stages.validate, processes, limits, server)
            started.callback(self._validators.close)
            self._compilers.wait_warm()
            self._validators.wait_warm()
            self._started = started.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def build(self, request: KernelRequested) -> BuildResult:
        """Build one kernel when processes are free; return a `Rejected` on failure.

        Raises:
            PoolBroken: no process can be started.
        """
        first = await self._compilers.call(encode(request))
        if not isinstance(compiled := first.outcome, Compiled):
            return _rejected(first, {"compile-queue": first.wait_ms})
        second = await self._validators.call(compiled.artifact, spent_ms=first.call_ms)
        waits_ms = {
            "compile-queue": first.wait_ms,
            "validate-queue": second.wait_ms,
            "handover": _beyond_work_ms(first) + _beyond_work_ms(second),
        }
        if not isinstance(validated := second.outcome, Validated):
            return _rejected(second, {**compiled.timings_ms, **waits_ms})
        if validated.sha256 != sha256_of(compiled.artifact):
            reason = "the validated bytes differ from the compiled bytes"
            return Rejected(RejectionCode.CRASHED, reason, waits_ms)
        return built(compiled, validated, waits_ms)

    def close(self) -> None:
        """Stop all processes and wait until they have ended; running jobs are abandoned."""
        self._started.close()


def _beyond_work_ms(result: JobResult) -> float:
    """Return a job's time outside its own steps: transfer to the process and back."""
    steps = result.outcome.timings_ms.items()
    return max(0.0, result.call_ms - sum(taken for step, taken in steps if "." not in step))


def _rejected(result: JobResult, timings_ms: TimingsMs) -> Rejected:
    if not isinstance(rejected := result.outcome, Rejected):
        raise TypeError(f"a process returned {type(rejected).__name__}; expected Rejected")
    return replace(rejected, timings_ms={**timings_ms, **rejected.timings_ms})
