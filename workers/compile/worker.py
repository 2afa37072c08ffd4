"""The compile worker: build requested kernels, store them and announce each attempt."""

import asyncio
import time
from collections import OrderedDict
from functools import partial

import structlog
from faust import EventT, StreamT

from esper.blueprint import RejectionCode
from esper.compiler import (
    MILLISECONDS,
    Built,
    CompilePool,
    ProcessLimits,
    Rejected,
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
from esper.workers.compile.kernel_writer import KernelWriter
from esper.workers.compile.planner import Planner
from esper.workers.faust.app import is_ready, make_app, raw_topic, run
from esper.workers.faust.dead_letters import read, record_of
from esper.workers.faust.guards import GuardedApp, process_in_order
from esper.workers.faust.metrics import (
    BUILD_SECONDS,
    COMPILING,
    KERNELS_COMPILED,
    REQUEST_TO_READY_SECONDS,
    StoreMetrics,
    metrics_server,
    observe_steps,
)
from esper.workers.faust.quarantine import attempt, described, quarantined
from esper.workers.signing_key import signing_key_of

log = structlog.get_logger()

MAX_ANNOUNCED = 4096
"""Announced kernels kept in memory: a repeated request is announced again without compiling."""

DRAIN_SLACK_S = 5.0
"""Seconds that a shutdown adds to a kernel's time limit, for storing and announcing it."""


class Compiler:
    """The agent that builds, signs, stores and announces the kernels of `kernel-requested`.

    A kernel is stored before it is announced, and announced before its request is acknowledged.
    """

    def __init__(
        self,
        app: GuardedApp,
        producer: Producer,
        compile_pool: CompilePool,
        writer: KernelWriter,
        key: SigningKey,
        concurrency: int,
    ) -> None:
        self._producer = producer
        self._compile_pool = compile_pool
        self._writer = writer
        self._key = key
        self._concurrency = concurrency
        self._announced: OrderedDict[str, KernelReady] = OrderedDict()
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
        known = self._announced.get(request.kernel_id)
        if known is not None and await self._writer.is_durable(known.location):
            await self._publish(KERNEL_READY, known, record)
            return
        error = await attempt(lambda: self._answer(request, record, delivery_ms))
        if error is not None:
            failed = Rejected(RejectionCode.WORKER_ERROR, described(error))
            await self._reject(request, failed, {"delivery": delivery_ms}, record)

    async def _answer(self, request: KernelRequested, record: Record, delivery_ms: float) -> None:
        with COMPILING.track_inprogress(), BUILD_SECONDS.time():
            outcome = await self._compile_pool.build(request)
        timings_ms = {"delivery": delivery_ms, **outcome.timings_ms}
        if isinstance(outcome, Built):
            await self._announce(request, outcome, timings_ms, record)
        else:
            await self._reject(request, outcome, timings_ms, record)

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
        )
        await asyncio.gather(
            self._publish(KERNEL_READY, ready, record),
            self._publish(KERNEL_COMPILED, compiled, record),
        )
        self._add_announced(ready)
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
        )
        await self._publish(KERNEL_COMPILED, compiled, record)
        KERNELS_COMPILED.labels(CompileStatus.REJECTED, rejected.code).inc()
        log.warning(
            "rejected", blueprint=compiled.blueprint_id, code=rejected.code, why=rejected.reason
        )

    async def _publish(
        self, topic: Topic, event: KernelCompiled | KernelReady, record: Record
    ) -> None:
        trace = child_traceparent(traceparent_of(record.headers))
        await self._producer.publish(topic, event, traceparent=trace)

    def _add_announced(self, ready: KernelReady) -> None:
        self._announced[ready.kernel_id] = ready
        if len(self._announced) > MAX_ANNOUNCED:
            self._announced.popitem(last=False)


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


def run_compile_worker(settings: Settings) -> int:
    """Run planner and compiler until SIGTERM; return the exit code of the process.

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
    limits = ProcessLimits(
        wall_s=settings.compile_timeout_s,
        cpu_s=settings.compile_cpu_s,
        memory_mb=settings.compile_memory_mb,
    )
    with CompilePool(settings.compile_processes, limits=limits) as compile_pool:
        store = open_store(settings.kernel_store_spec, settings.store_credentials)
        Compiler(
            app,
            producer,
            compile_pool,
            KernelWriter(store),
            key,
            # Keep both processes of each pair busy, plus one kernel being stored or announced.
            2 * settings.compile_processes + 1,
        )
        Planner(app, producer)
        with metrics_server(
            settings.metrics_host,
            settings.metrics_port,
            partial(is_ready, app),
            before_scrape=StoreMetrics(store.health),
        ):
            return run(app, topics=_expected(), close=producer.stop)


def _expected() -> dict[str, int]:
    """Return the partition counts to verify at start, also of the dead letters of topics read."""
    read = (BLUEPRINT_SUBMITTED, TRAINING_RUN, KERNEL_REQUESTED)
    topics = (*read, KERNEL_COMPILED, KERNEL_READY)
    return {topic.name: topic.partitions for topic in topics} | {
        topic.dead_letters: 1 for topic in read
    }
