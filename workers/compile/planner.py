"""The planner: request the kernels that open runs want of the blueprints that stand.

In: blueprints and runs. Out: `kernel-requested`, tombstones on `kernel-ready` for withdrawn
blueprints, and a rejection for a blueprint that gets no kernel. Both input topics have one
partition, so that one worker has all of both tables.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import structlog
from faust import EventT, StreamT

from esper.blueprint import (
    BlueprintRejected,
    RejectionCode,
    Submission,
    check,
    kernel_id,
    limits_of,
    publisher_of,
    withdrawn_id,
)
from esper.topics.bus import Producer, Record
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    PLANNED_BLUEPRINTS,
    PLANNED_RUNS,
    TRAINING_RUN,
)
from esper.topics.codec import child_traceparent, encode, traceparent_of
from esper.topics.models import (
    Blueprint,
    CompileStatus,
    KernelCompiled,
    RunStatus,
    TrainingRun,
)
from esper.workers.compile.answers import Answers
from esper.workers.compile.plan import OpenRun, Plan
from esper.workers.compile.planned_rows import (
    PlannedBlueprint,
    PlannedRun,
    first_order,
    restored_plan,
)
from esper.workers.compile.requester import Requester
from esper.workers.faust.app import batch_topic, bytes_table, raw_topic
from esper.workers.faust.dead_letters import DlqReason, read, record_of, send_to_dlq
from esper.workers.faust.guards import (
    GuardedApp,
    RecordBatch,
    process_batches,
    process_in_order,
    records_of,
    table_writes_for,
)
from esper.workers.faust.metrics import (
    BLUEPRINTS_UNANSWERED,
    KERNELS_COMPILED,
    KNOWN_BLUEPRINTS,
    OPEN_RUNS,
    RECORDS,
)
from esper.workers.faust.quarantine import attempt, described, quarantined

log = structlog.get_logger()

BATCH_RECORDS = 256
"""Blueprints that are planned together: one wait for the table's changelog."""

MAX_ANSWERS = 16
"""Answers `deferred` and `over-quota` to one publisher for one batch; the rest is counted."""

MAX_REASON_CHARS = 1000


class _Batch:
    """What a batch of blueprints changes: traces by blueprint id, and rejections to publish.

    Of the blueprints that have no place, those of a flood are not all answered.
    """

    def __init__(self) -> None:
        self.changed: dict[str, str | None] = {}
        self.rejected: list[tuple[Blueprint, BlueprintRejected, str | None]] = []
        self.unanswered = 0
        self._answered: Counter[str] = Counter()

    def is_full(self, publisher: str) -> bool:
        """Return whether a publisher gets no more answers about places and quotas."""
        return self._answered[publisher] >= MAX_ANSWERS

    def reject(
        self, blueprint: Blueprint, error: BlueprintRejected, trace: str | None, publisher: str
    ) -> None:
        """Add a rejection."""
        if error.code in (RejectionCode.OVER_QUOTA, RejectionCode.DEFERRED):
            if self.is_full(publisher):
                self.unanswered += 1
                return
            self._answered[publisher] += 1
        self.rejected.append((blueprint, error, trace))


class Planner:
    """The two agents that keep the tables of blueprints and open runs.

    Rejections are confirmed by the broker before the table is written, and the table before the
    offset is committed. What is left to request follows from the tables and from the answers on
    the topics, so that a crash at any time loses no kernel.
    """

    def __init__(
        self, app: GuardedApp, producer: Producer, answers: Answers, requester: Requester
    ) -> None:
        self._producer = producer
        self._answers = answers
        self._requester = requester
        self._blueprints = bytes_table(app, PLANNED_BLUEPRINTS.name, BLUEPRINT_SUBMITTED.partitions)
        self._runs = bytes_table(app, PLANNED_RUNS.name, TRAINING_RUN.partitions)
        requester.restore = lambda: restored_plan(self._blueprints, self._runs)
        app.agent(batch_topic(app, BLUEPRINT_SUBMITTED.name))(self._read_blueprints)
        app.agent(raw_topic(app, TRAINING_RUN.name))(self._read_runs)

    async def _read_blueprints(self, stream: StreamT[tuple[Record, ...]]) -> None:
        await process_batches(stream, self._plan_blueprints, max_records=BATCH_RECORDS)

    async def _read_runs(self, stream: StreamT[bytes]) -> None:
        await process_in_order(stream, quarantined(self._plan_run, self._producer))

    async def _plan_blueprints(self, record_batches: Sequence[RecordBatch]) -> None:
        batch = _Batch()
        async with self._requester.planning() as plan:
            before = plan.placed()
            for record_batch in record_batches:
                with table_writes_for(record_batch):
                    for record in records_of(record_batch.message):
                        await self._take(record, plan, batch)
                await asyncio.sleep(0)  # let the fetcher and the metrics server run
            for blueprint_id, trace in batch.changed.items():
                self._defer(blueprint_id, trace, plan, batch)
            await asyncio.gather(*(self._reject(*rejected) for rejected in batch.rejected))
            if batch.unanswered:
                BLUEPRINTS_UNANSWERED.inc(batch.unanswered)
                log.warning("blueprints have no place", unanswered=batch.unanswered)
            await self._blueprints.confirmed()
            freed = {name for _, name in plan.placed() - before}
            self._requester.add(
                plan.wanted_of({**batch.changed, **dict.fromkeys(freed)}), batch.changed
            )
            KNOWN_BLUEPRINTS.set(len(plan.submissions))

    async def _take(self, record: Record, plan: Plan, batch: _Batch) -> None:
        """Apply a record to plan and table; one that fails twice is dead-lettered."""
        error = await attempt(lambda: self._apply(record, plan, batch))
        if error is not None:
            await send_to_dlq(record, DlqReason.FAILED, described(error), self._producer)

    async def _apply(self, record: Record, plan: Plan, batch: _Batch) -> None:
        if (withdrawn := withdrawn_id(record.key, record.value)) is not None:
            RECORDS.labels(record.topic).inc()
            await self._withdraw(withdrawn, record, plan)
            return
        publisher = publisher_of(record.headers)
        over_quota = record.key and plan.submissions.is_over_quota(_id(record), publisher)
        if over_quota and batch.is_full(publisher):
            # Not decoded: a flood must not delay the blueprints behind it.
            RECORDS.labels(record.topic).inc()
            batch.unanswered += 1
            return
        blueprint = await read(BLUEPRINT_SUBMITTED, Blueprint, record, self._producer)
        if blueprint is None:
            return
        trace = traceparent_of(record.headers)
        key = blueprint.blueprint_id.encode()
        order = first_order(self._blueprints.get(key), record.offset)
        try:
            plan.submissions.require_quota(blueprint.blueprint_id, publisher)
            check(blueprint)
            plan.submit(Submission(blueprint, publisher))
        except BlueprintRejected as error:
            batch.reject(blueprint, error, trace, publisher)
            return
        row = PlannedBlueprint(order=order, publisher=publisher, blueprint=blueprint)
        self._blueprints[key] = encode(row)
        batch.changed[blueprint.blueprint_id] = trace

    async def _withdraw(self, blueprint_id: str, record: Record, plan: Plan) -> None:
        kernel_ids = self._answers.ready_of({blueprint_id})
        if not kernel_ids and plan.submissions.get(blueprint_id) is None:
            return
        plan.withdraw(blueprint_id)
        await self._requester.withdraw(kernel_ids)
        row = PlannedBlueprint(order=record.offset, publisher=publisher_of(record.headers))
        self._blueprints[blueprint_id.encode()] = encode(row)
        log.info("blueprint withdrawn", blueprint=blueprint_id, kernels=len(kernel_ids))

    def _defer(self, blueprint_id: str, trace: str | None, plan: Plan, batch: _Batch) -> None:
        """Reject a blueprint as deferred if the sites of an open run have no place for it."""
        submission, run_id = plan.submissions.get(blueprint_id), plan.deferred_by(blueprint_id)
        if submission is None or run_id is None:
            return
        limits = limits_of(plan.runs[run_id].run)
        reason = (
            f"run {run_id} has {limits.kernels} places for kernels at sites of a kind and "
            f"{limits.kernels_of_publisher} for one publisher, and no place is free for publisher "
            f"{submission.publisher!r}; the blueprint is planned when one is: withdraw another"
        )
        error = BlueprintRejected(RejectionCode.DEFERRED, reason)
        batch.reject(submission.blueprint, error, trace, submission.publisher)

    async def _plan_run(self, event: EventT[bytes]) -> None:
        record = record_of(event)
        run = await read(TRAINING_RUN, TrainingRun, record, self._producer)
        if run is None:
            return
        key = run.run_id.encode()
        async with self._requester.planning() as plan:
            if run.status is RunStatus.OPEN:
                # A clock that is ahead must not keep a run for longer than others.
                seen_ms = min(record.timestamp_ms, int(time.time() * 1000))
                opened = OpenRun(run, seen_ms)
                if plan.open(opened):
                    names = dict.fromkeys(one.blueprint.blueprint_id for one in plan.submissions)
                    trace = traceparent_of(record.headers)
                    wanted = self._requester.unanswered(opened)
                    self._requester.add(wanted, dict.fromkeys(names, trace))
                    if deferred := plan.without_place(run):
                        log.info("blueprints deferred", run=run.run_id, blueprints=deferred)
                self._runs[key] = encode(PlannedRun(seen_ms=seen_ms, run=run))
            else:
                plan.close(run.run_id)
                self._runs.pop(key, None)
            for expired in self._requester.expired - plan.runs.keys():
                self._runs.pop(expired.encode(), None)
            self._requester.expired.clear()
            await self._runs.confirmed()
            OPEN_RUNS.set(len(plan.runs))

    async def _reject(
        self, blueprint: Blueprint, error: BlueprintRejected, trace: str | None
    ) -> None:
        rejected = KernelCompiled(
            kernel_id=kernel_id(blueprint, None),
            blueprint_id=blueprint.blueprint_id,
            status=CompileStatus.REJECTED,
            reason_code=error.code,
            reason=error.message[:MAX_REASON_CHARS],
        )
        await self._producer.publish(
            KERNEL_COMPILED, rejected, traceparent=child_traceparent(trace)
        )
        KERNELS_COMPILED.labels(CompileStatus.REJECTED, error.code).inc()


def _id(record: Record) -> str:
    """Return the key of a record, which is the blueprint's id if the record has one."""
    return (record.key or b"").decode("utf-8", "replace")
