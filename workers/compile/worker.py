"""The compile worker: build requested kernels, store them and announce each attempt."""

import asyncio
import time
from functools import partial
from typing import TypeVar

import structlog
from faust import EventT, StreamT

from esper.blueprint import RejectionCode
from esper.compiler import (
    MILLISECONDS,
    STAGES,
    BuildResult,
    Built,
    CompilePool,
    ForkServer,
    ProcessLimits,
    Rejected,
    Stages,
    timed,
)
from esper.kernel import UNSIGNED, sign_announcement
from esper.settings import Settings
from esper.signing import SigningKey
from esper.store import open_store
from esper.topics.bus import Producer, Record
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    COMPILE_APP,
    KERNEL_COMPILED,
    KERNEL_READY,
    KERNEL_REQUESTED,
    TRAINING_RUN,
    Topic,
)
from esper.topics.codec import child_traceparent, traceparent_of
from esper.topics.models import (
    Characterisation,
    CompileStatus,
    KernelCompiled,
    KernelCost,
    KernelReady,
    KernelRequested,
)
from esper.workers.compile.answers import MAX_ATTEMPTS, Answers
from esper.workers.compile.planner import Planner
from esper.workers.compile.requester import Requester
from esper.workers.compile.turns import CompileTurns, KernelLocks
from esper.workers.faust.app import is_ready, make_app, raw_topic, run
from esper.workers.faust.dead_letters import read, record_of
from esper.workers.faust.guards import GuardedApp, process_in_order
from esper.workers.faust.kernel_writer import KernelWriter
from esper.workers.faust.metrics import (
    BUILD_SECONDS,
    COMPILING,
    KERNELS_COMPILED,
    KERNELS_REPEATED,
    REQUEST_TO_READY_SECONDS,
    StoreMetrics,
    metrics_server,
    observe_steps,
)
from esper.workers.faust.quarantine import attempt, described, quarantined
from esper.workers.signing_key import signing_key_of

log = structlog.get_logger()

T = TypeVar("T")

DRAIN_SLACK_S = 5.0
"""Seconds that a shutdown adds to a kernel's time limit, for storing and announcing it."""


class Compiler:
    """The agent that answers the requests of `kernel-requested`, each kernel compiled once.

    A kernel that is announced and stored, or finally rejected, is answered again without compiling:
    a run that has just opened may wait for its own answer. Any other kernel is compiled, stored,
    announced and acknowledged, in this order.
    """

    def __init__(
        self,
        app: GuardedApp,
        producer: Producer,
        answers: Answers,
        compile_pool: CompilePool,
        writer: KernelWriter,
        key: SigningKey,
        concurrency: int,
    ) -> None:
        self._producer = producer
        self._answers = answers
        self._compile_pool = compile_pool
        self._writer = writer
        self._key = key
        self._concurrency = concurrency
        self._in_work = KernelLocks()
        self._turns = CompileTurns()
        app.task(answers.all_caught_up)  # Reading begins now, not with the first request.
        app.agent(raw_topic(app, KERNEL_REQUESTED.name))(self._read_requests)

    async def _read_requests(self, stream: StreamT[bytes]) -> None:
        handle = quarantined(self._compile, self._producer)
        await process_in_order(stream, handle, concurrency=self._concurrency)

    async def _compile(self, event: EventT[bytes]) -> None:
        record = record_of(event)
        delivery_ms = max(0.0, time.time() * MILLISECONDS - record.timestamp_ms)
        request = await read(KERNEL_REQUESTED, KernelRequested, record, self._producer)
        if request is None:
            return
        async with self._in_work.holding(request.kernel_id):
            await self._answers.caught_up(request, event.message.generation_id or 0)
            if await self._answer_again(request, record):
                KERNELS_REPEATED.inc()
                return
            error = await attempt(lambda: self._answer(request, record, delivery_ms))
            if error is not None:
                failed = Rejected(RejectionCode.WORKER_ERROR, described(error))
                await self._reject(request, failed, {"delivery": delivery_ms}, record)

    async def _answer_again(self, request: KernelRequested, record: Record) -> bool:
        """Repeat the answer of an earlier request; return whether there is one."""
        ready = self._answers.ready(request.kernel_id)
        if ready is not None and await self._is_loadable(ready):
            await self._publish(KERNEL_READY, ready, record)
            return True
        attempts = self._answers.attempts(request.kernel_id)
        if attempts.rejected is None or not attempts.answered:
            return False
        repeated = attempts.rejected.model_copy(update={"timings_ms": {}, "repeated": True})
        await self._publish(KERNEL_COMPILED, repeated, record)
        return True

    async def _is_loadable(self, ready: KernelReady) -> bool:
        """Return whether this key has signed the announcement, and the store has its bytes."""
        signed = sign_announcement(self._key, ready) == ready  # Ed25519 is deterministic.
        return signed and await self._writer.is_durable(ready.location)

    async def _answer(self, request: KernelRequested, record: Record, delivery_ms: float) -> None:
        earlier = self._answers.attempts(request.kernel_id)
        timings_ms = {"delivery": delivery_ms}
        if earlier.count >= MAX_ATTEMPTS:
            last = f"; before: {earlier.reason}" if earlier.reason else ""
            reason = f"the compile worker ended in each of {earlier.count} attempts{last}"
            await self._reject(request, Rejected(RejectionCode.CRASHED, reason), timings_ms, record)
            return
        async with self._turns.taken(alone=earlier.count > 0):
            outcome = await self._build(request, record)
        timings_ms |= outcome.timings_ms
        if isinstance(outcome, Built):
            await self._announce(request, outcome, timings_ms, record)
        else:
            await self._reject(request, outcome, timings_ms, record)

    async def _build(self, request: KernelRequested, record: Record) -> BuildResult:
        """Build a kernel; another time where a process died, up to `MAX_ATTEMPTS` in all."""
        while True:
            outcome = await self._attempt(request, record)
            if not isinstance(outcome, Rejected) or outcome.code is not RejectionCode.CRASHED:
                return outcome
            if self._answers.attempts(request.kernel_id).count >= MAX_ATTEMPTS:
                return outcome
            log.warning("compiling again", kernel=request.kernel_id[:12], why=outcome.reason)

    async def _attempt(self, request: KernelRequested, record: Record) -> BuildResult:
        started = asyncio.create_task(self._start_attempt(request, record))
        if self._answers.attempts(request.kernel_id).count > 0:
            # A first attempt does not wait for the broker: it would delay every kernel, to count
            # one more attempt of those that kill their worker within a millisecond.
            await started
        try:
            with COMPILING.track_inprogress(), BUILD_SECONDS.time():
                outcome = await self._compile_pool.build(request)
        finally:
            await started
        if isinstance(outcome, Rejected):
            self._answers.failed(request.kernel_id, outcome.reason)
        return outcome

    async def _start_attempt(self, request: KernelRequested, record: Record) -> None:
        earlier = self._answers.attempts(request.kernel_id)
        started = KernelCompiled(
            kernel_id=request.kernel_id,
            blueprint_id=request.blueprint.blueprint_id,
            status=CompileStatus.STARTED,
            site_signature=request.site_signature,
            reason=earlier.reason,
            attempt=earlier.count + 1,
            worker=self._answers.worker,
        )
        await self._publish(KERNEL_COMPILED, started, record)
        self._answers.attempted(started)

    async def _announce(
        self, request: KernelRequested, built: Built, timings_ms: dict[str, float], record: Record
    ) -> None:
        with timed(timings_ms, "store"):
            location = await self._writer.put(request.kernel_id, built.artifact)
        unsigned = KernelReady(
            kernel_id=request.kernel_id,
            blueprint_id=request.blueprint.blueprint_id,
            category=request.blueprint.category,
            site_signature=request.site_signature,
            location=location,
            sha256=built.sha256,
            ed25519_signature=UNSIGNED,
            bytes=len(built.artifact),
            params=built.characterisation.params,
            cost=cost_of(built.characterisation),
        )
        with timed(timings_ms, "sign"):
            ready = sign_announcement(self._key, unsigned)
        compiled = KernelCompiled(
            kernel_id=request.kernel_id,
            blueprint_id=request.blueprint.blueprint_id,
            status=CompileStatus.READY,
            site_signature=request.site_signature,
            sha256=built.sha256,
            characterisation=built.characterisation,
            timings_ms=timings_ms,
            attempt=self._answers.attempts(request.kernel_id).count,
            worker=self._answers.worker,
        )
        await asyncio.gather(
            self._publish(KERNEL_READY, ready, record),
            self._publish(KERNEL_COMPILED, compiled, record),
        )
        self._answers.announced(ready)
        self._answers.attempted(compiled)
        KERNELS_COMPILED.labels(CompileStatus.READY, "").inc()
        observe_steps(timings_ms)
        REQUEST_TO_READY_SECONDS.observe(max(0.0, time.time() - record.timestamp_ms / 1000))

    async def _reject(
        self,
        request: KernelRequested,
        rejected: Rejected,
        timings_ms: dict[str, float],
        record: Record,
    ) -> None:
        compiled = KernelCompiled(
            kernel_id=request.kernel_id,
            blueprint_id=request.blueprint.blueprint_id,
            status=CompileStatus.REJECTED,
            site_signature=request.site_signature,
            reason_code=rejected.code,
            reason=rejected.reason[:1000],
            timings_ms=timings_ms,
            attempt=max(1, self._answers.attempts(request.kernel_id).count),
            worker=self._answers.worker,
        )
        await self._publish(KERNEL_COMPILED, compiled, record)
        self._answers.attempted(compiled)
        KERNELS_COMPILED.labels(CompileStatus.REJECTED, rejected.code).inc()
        log.warning(
            "rejected", blueprint=compiled.blueprint_id, code=rejected.code, why=rejected.reason
        )

    async def _publish(
        self, topic: Topic, event: KernelCompiled | KernelReady, record: Record
    ) -> None:
        trace = child_traceparent(traceparent_of(record.headers))
        await self._producer.publish(topic, event, traceparent=trace)


def cost_of(measured: Characterisation) -> KernelCost:
    """Return a kernel's cost; time and memory as ratios to those of the host layer."""
    return KernelCost(
        flops=measured.flops,
        latency_ratio=_ratio(
            measured.forward_ms + measured.backward_ms,
            measured.host_forward_ms,
            measured.host_backward_ms,
        ),
        memory_ratio=_ratio(measured.peak_bytes, measured.host_peak_bytes),
    )


def _ratio(kernel: float, *host: float | None) -> float | None:
    """Return `kernel` over the sum of `host`; None if a host measurement is missing or 0."""
    measured = [value for value in host if value]
    return kernel / sum(measured) if len(measured) == len(host) else None


def run_compile_worker(
    settings: Settings, stages: Stages = STAGES, server: ForkServer | None = None
) -> int:
    """Run planner and compiler until SIGTERM; return the exit code of the process.

    Benchmarks give `stages` of stated cost. A `server` that was started earlier saves time.

    Raises:
        MissingKey, KeyUnusable: see `signing_key_of`.
        SettingMissing, SecretFileUnusable: the credentials are incomplete.
    """
    key = signing_key_of(settings)
    kafka = settings.kafka
    app = make_app(
        COMPILE_APP,
        bootstrap_servers=kafka,
        data_dir=settings.home / "faust" / COMPILE_APP,
        instance_id=settings.instance_id,
        session_timeout_s=settings.session_timeout_s,
        drain_timeout_s=settings.compile_timeout_s + DRAIN_SLACK_S,
    )
    producer = Producer(kafka, source="/esper/worker/compile")
    answers = Answers(kafka)

    async def close() -> None:
        await answers.stop()
        await producer.stop()

    with CompilePool(
        settings.compile_processes, limits=_limits(settings), stages=stages, server=server
    ) as compile_pool:
        store = open_store(settings.kernel_store_spec, settings.store_credentials)
        Compiler(
            app,
            producer,
            answers,
            compile_pool,
            KernelWriter(store),
            key,
            # Keep both processes of each pair busy, plus one kernel being stored or announced.
            2 * settings.compile_processes + 1,
        )
        requester = Requester(
            app,
            producer,
            answers,
            in_flight=settings.kernels_in_flight,
            run_expiry_s=settings.run_expiry_s,
        )
        Planner(app, producer, answers, requester)
        with metrics_server(
            settings.metrics_host,
            settings.metrics_port,
            partial(is_ready, app),
            before_scrape=StoreMetrics(store.health),
        ):
            return run(app, topics=_expected(), close=close)


def _limits(settings: Settings) -> ProcessLimits:
    return ProcessLimits(
        wall_s=settings.compile_timeout_s,
        cpu_s=settings.compile_cpu_s,
        memory_mb=settings.compile_memory_mb,
    )


def _expected() -> dict[str, int]:
    """Return the partition counts to verify at start, also of the dead letters of topics read."""
    read = (BLUEPRINT_SUBMITTED, TRAINING_RUN, KERNEL_REQUESTED)
    topics = (*read, KERNEL_COMPILED, KERNEL_READY)
    return {topic.name: topic.partitions for topic in topics} | {
        topic.dead_letters: 1 for topic in read
    }
