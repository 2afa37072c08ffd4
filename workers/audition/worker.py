"""The audition worker: requests in; signed results and trained weights out."""

import asyncio
from functools import partial
from pathlib import Path

import structlog
import torch
from faust import EventT, StreamT

from esper.errors import EsperError
from esper.kernel import ArtifactRefused
from esper.settings import Settings
from esper.signing import Purpose, SigningKey, TrustedKeys
from esper.store import open_store
from esper.topics.bus import Producer
from esper.topics.catalog import AUDITION_APP, AUDITION_REQUESTED, KERNEL_AUDITIONED
from esper.topics.codec import child_traceparent, traceparent_of
from esper.topics.models import AuditionRequested
from esper.workers.audition.attempts import Attempts
from esper.workers.audition.stage import Auditioned, AuditionStage
from esper.workers.faust.app import is_ready, make_app, raw_topic, run
from esper.workers.faust.dead_letters import read, record_of
from esper.workers.faust.guards import GuardedApp, process_in_order
from esper.workers.faust.kernel_writer import KernelWriter
from esper.workers.faust.metrics import (
    AUDITION_SECONDS,
    AUDITIONS,
    StoreMetrics,
    metrics_server,
)
from esper.workers.faust.quarantine import quarantined
from esper.workers.signing_key import signing_key_of

log = structlog.get_logger()


class NoDevice(EsperError, RuntimeError):
    """The device of the settings is not there."""


class AuditionWorker:
    """The agent of `audition-requested`: train, store the weights, publish the result."""

    def __init__(
        self,
        app: GuardedApp,
        producer: Producer,
        stage: AuditionStage,
        writer: KernelWriter,
        key: SigningKey,
    ) -> None:
        self._producer = producer
        self._stage = stage
        self._writer = writer
        self._sign = partial(key.sign, Purpose.AUDITION)
        app.agent(raw_topic(app, AUDITION_REQUESTED.name))(self._read_requests)

    async def _read_requests(self, stream: StreamT[bytes]) -> None:
        handle = quarantined(self._perform, self._producer)
        # Two: one trains while the weights of another are stored.
        await process_in_order(stream, handle, concurrency=2)

    async def _perform(self, event: EventT[bytes]) -> None:
        record = record_of(event)
        request = await read(AUDITION_REQUESTED, AuditionRequested, record, self._producer)
        if request is None:
            return
        trace = child_traceparent(traceparent_of(record.headers))
        for found in await asyncio.to_thread(self._stage.perform, request):
            await self._announce(request, found, trace)

    async def _announce(self, request: AuditionRequested, found: Auditioned, trace: str) -> None:
        """Store the trained weights, then publish the result that names them."""
        result = found.result
        if found.artifact is not None:
            await self._writer.put(request.kernel_id, found.artifact)
        await self._producer.publish(KERNEL_AUDITIONED, result, traceparent=trace, sign=self._sign)
        AUDITIONS.labels("failed" if result.gain is None else "measured").inc()
        AUDITION_SECONDS.observe(result.seconds)
        if result.reason is not None:
            log.warning("audition failed", kernel=request.kernel_id[:12], why=result.reason)


def run_audition_worker(settings: Settings) -> int:
    """Run the audition worker until SIGTERM; return the exit code of the process.

    Raises:
        MissingKey, KeyUnusable: see `signing_key_of`.
        SettingMissing, SecretFileUnusable: the credentials are incomplete.
        NoDevice: the settings name a GPU, and torch finds none.
    """
    key = signing_key_of(settings)
    if settings.audition_device == "cuda" and not torch.cuda.is_available():
        raise NoDevice("torch finds no GPU; set ESPER_AUDITION_DEVICE=cpu, or leave it out")
    torch.set_num_threads(1)
    kafka, data_dir = settings.kafka, settings.home / "faust" / AUDITION_APP
    app = make_app(
        AUDITION_APP,
        bootstrap_servers=kafka,
        data_dir=data_dir,
        instance_id=settings.instance_id,
        session_timeout_s=settings.session_timeout_s,
    )
    producer = Producer(kafka, source="/esper/worker/audition")
    store = open_store(settings.kernel_store_spec, settings.store_credentials)
    stage = AuditionStage(
        store,
        _trusted_keys(settings),
        Attempts(data_dir / "attempts"),
        settings.instance_id or "",
        device=settings.audition_device,
        limit_s=settings.audition_timeout_s,
    )
    AuditionWorker(app, producer, stage, KernelWriter(store), key)
    topics = {
        AUDITION_REQUESTED.name: AUDITION_REQUESTED.partitions,
        AUDITION_REQUESTED.dead_letters: 1,
        KERNEL_AUDITIONED.name: KERNEL_AUDITIONED.partitions,
    }
    with metrics_server(
        settings.metrics_host,
        settings.metrics_port,
        partial(is_ready, app),
        before_scrape=StoreMetrics(store.health),
    ):
        return run(app, topics=topics, close=producer.stop)


def _trusted_keys(settings: Settings) -> TrustedKeys:
    file = settings.trusted_key_file
    if file is None:
        raise ArtifactRefused(
            "no key to verify kernels with: set ESPER_TRUSTED_KEY_FILE to the public key of the "
            "compile workers"
        )
    return TrustedKeys(Path(file))
