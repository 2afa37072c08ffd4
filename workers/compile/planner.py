"""The planner: request one kernel per blueprint and site signature of the open runs.

In: blueprints and runs. Out: `kernel-requested`, and a rejection for a blueprint that is invalid at
every site. Both input topics have one partition, so that one worker has all of both tables.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import structlog
from faust import EventT, StreamT

from esper.blueprint import BlueprintRejected, check, kernel_id, requests_for
from esper.topics.bus import Producer
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    KERNEL_REQUESTED,
    PLANNED_BLUEPRINTS,
    PLANNED_RUNS,
    TRAINING_RUN,
)
from esper.topics.codec import Undecodable, child_traceparent, decode, encode, traceparent_of
from esper.topics.models import (
    Blueprint,
    CompileStatus,
    Event,
    KernelCompiled,
    KernelRequested,
    RunStatus,
    TrainingRun,
)
from esper.workers.faust.app import bytes_table, raw_topic
from esper.workers.faust.dead_letters import read, record_of
from esper.workers.faust.guards import GuardedApp, process_in_order
from esper.workers.faust.metrics import (
    KERNELS_COMPILED,
    KERNELS_REQUESTED,
    KNOWN_BLUEPRINTS,
    OPEN_RUNS,
)
from esper.workers.faust.quarantine import quarantined

log = structlog.get_logger()

E = TypeVar("E", bound=Event)


def decoded_values(model: type[E], table: Mapping[bytes, bytes]) -> Iterator[E]:
    """Yield the decoded values of a table; log and skip those of another version."""
    for key, value in list(table.items()):
        try:
            yield decode(model, value)
        except Undecodable as error:
            log.warning("table value skipped", key=key, why=str(error))


class Planner:
    """The two agents that keep the tables of blueprints and open runs and request their kernels.

    The broker confirms the requests before the table is written, and the table before the offset is
    committed. After a crash in between the requests are sent again; the compiler allows that.
    """

    def __init__(self, app: GuardedApp, producer: Producer) -> None:
        self._producer = producer
        self._blueprints = bytes_table(app, PLANNED_BLUEPRINTS.name, BLUEPRINT_SUBMITTED.partitions)
        self._runs = bytes_table(app, PLANNED_RUNS.name, TRAINING_RUN.partitions)
        # A blueprint and a run planned at the same time would miss each other's table row.
        self._planning = asyncio.Lock()
        app.agent(raw_topic(app, BLUEPRINT_SUBMITTED.name))(self._read_blueprints)
        app.agent(raw_topic(app, TRAINING_RUN.name))(self._read_runs)

    async def _read_blueprints(self, stream: StreamT[bytes]) -> None:
        await process_in_order(stream, quarantined(self._plan_blueprint, self._producer))

    async def _read_runs(self, stream: StreamT[bytes]) -> None:
        await process_in_order(stream, quarantined(self._plan_run, self._producer))

    async def _plan_blueprint(self, event: EventT[bytes]) -> None:
        record = record_of(event)
        blueprint = await read(BLUEPRINT_SUBMITTED, Blueprint, record, self._producer)
        if blueprint is None:
            return
        trace = traceparent_of(record.headers)
        try:
            check(blueprint)
        except BlueprintRejected as error:
            await self._reject(blueprint, error, trace)
            return
        async with self._planning:
            runs = decoded_values(TrainingRun, self._runs)
            await self._request(requests_for([blueprint], runs), trace)
            self._blueprints[blueprint.blueprint_id.encode()] = encode(blueprint)
            await self._blueprints.confirmed()
            KNOWN_BLUEPRINTS.set(len(self._blueprints))

    async def _plan_run(self, event: EventT[bytes]) -> None:
        record = record_of(event)
        run = await read(TRAINING_RUN, TrainingRun, record, self._producer)
        if run is None:
            return
        key = run.run_id.encode()
        async with self._planning:
            if run.status is RunStatus.OPEN:
                blueprints = list(decoded_values(Blueprint, self._blueprints))
                await self._request(requests_for(blueprints, [run]), traceparent_of(record.headers))
                self._runs[key] = encode(run)
            else:
                self._runs.pop(key, None)
            await self._runs.confirmed()
            OPEN_RUNS.set(len(self._runs))

    async def _request(self, requests: Iterable[KernelRequested], trace: str | None) -> None:
        sends = []
        for request in requests:
            child = child_traceparent(trace)
            sends.append(self._producer.publish(KERNEL_REQUESTED, request, traceparent=child))
        await asyncio.gather(*sends)
        KERNELS_REQUESTED.inc(len(sends))

    async def _reject(
        self, blueprint: Blueprint, error: BlueprintRejected, trace: str | None
    ) -> None:
        rejected = KernelCompiled(
            kernel_id=kernel_id(blueprint, None),
            blueprint_id=blueprint.blueprint_id,
            status=CompileStatus.REJECTED,
            reason_code=error.code,
            reason=error.message[:1000],
        )
        await self._producer.publish(
            KERNEL_COMPILED, rejected, traceparent=child_traceparent(trace)
        )
        KERNELS_COMPILED.labels(CompileStatus.REJECTED, error.code).inc()
