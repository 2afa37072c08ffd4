"""The compile farm: builds kernels in processes that may hang or die without harm.

One crew compiles and another validates, so that the bytes that are run are those that crossed
between processes, and two kernels are in work for every pair of processes. Secrets stay out:
what the processes build is signed by the caller.
"""

from dataclasses import replace
from typing import Final, Self

from esper.blueprint import RejectionCode
from esper.compiler.limits import ProcessLimits
from esper.compiler.results import BuildResult, Compiled, Rejected, TimingsMs, Validated, built
from esper.compiler.worker_pool import COMPILE, VALIDATE, JobResult, PoolBroken, WorkerPool
from esper.topics.codec import encode, sha256_of
from esper.topics.models import KernelRequested

__all__ = ["CompilePool", "PoolBroken"]

DEFAULT_LIMITS: Final = ProcessLimits()


class CompilePool:
    """Pairs of warm processes, fed by one asyncio event loop.

    A context manager: on leaving it, the processes are stopped.
    """

    def __init__(
        self,
        processes: int,
        timeout_s: float | None = None,
        *,
        limits: ProcessLimits = DEFAULT_LIMITS,
    ) -> None:
        """Start `processes` pairs of processes and wait until they are warm.

        `timeout_s`, where it is given, replaces the wall time of the limits.

        Raises:
            PoolBroken: one of them did not come up.
        """
        if timeout_s is not None:
            limits = replace(limits, wall_s=timeout_s)
        self._compilers = WorkerPool(COMPILE, processes, limits)
        self._validators = WorkerPool(VALIDATE, processes, limits)
        try:
            self._compilers.wait_warm()
            self._validators.wait_warm()
        except PoolBroken:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def build(self, request: KernelRequested) -> BuildResult:
        """Build one kernel as soon as processes are free; what went wrong is a `Rejected`.

        Raises:
            PoolBroken: no process can be started any more.
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
            reason = "the bytes that were validated are not those that were compiled"
            return Rejected(RejectionCode.CRASHED, reason, waits_ms)
        return built(compiled, validated, waits_ms)

    def close(self) -> None:
        """Stop all processes, and wait until they are gone; jobs in work are abandoned."""
        self._compilers.close()
        self._validators.close()


def _beyond_work_ms(answer: JobResult) -> float:
    """Return what a job took beyond its own steps: the way to the process and back."""
    steps = answer.outcome.timings_ms.items()
    return max(0.0, answer.call_ms - sum(taken for step, taken in steps if "." not in step))


def _rejected(answer: JobResult, timings_ms: TimingsMs) -> Rejected:
    if not isinstance(rejected := answer.outcome, Rejected):
        raise TypeError(f"a process answered with {type(rejected).__name__}")
    return replace(rejected, timings_ms={**timings_ms, **rejected.timings_ms})
