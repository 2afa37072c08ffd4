"""The bandit worker: reports in, folded run by run, decisions out."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import structlog
from faust import StreamT

from esper.audit import cause_of
from esper.orchestrator import FoldState, RunUnfoldable, SequenceGap, fold
from esper.settings import Settings
from esper.topics.bus import Producer, Record, TracedEvent
from esper.topics.catalog import ADAPTATION_DECISION, BANDIT_APP, FOLDED_RUNS, SEED_METRICS
from esper.topics.codec import child_traceparent, digest, traceparent_of
from esper.topics.models import AdaptationDecision, Cause, SeedReport
from esper.workers.bandit.memory_writer import MemoryWriter
from esper.workers.bandit.run_table import EndedRun, RunEnd, RunRow, RunTable
from esper.workers.bandit.sequence_gaps import require_missing
from esper.workers.faust.app import batch_topic, bytes_table, is_ready, make_app, run
from esper.workers.faust.dead_letters import DlqReason, read, send_to_dlq
from esper.workers.faust.guards import GuardedApp, RecordBatch, process_batches, records_of
from esper.workers.faust.metrics import (
    DECISIONS,
    REPORTS_FOLDED,
    REPORTS_REPEATED,
    RUNS_BROKEN,
    RUNS_CLOSED,
    note_latency,
    served,
)

log = structlog.get_logger()

BATCH_RECORDS = 512
"""More would save little and would keep the first decision of a backlog waiting longer."""


class Decided(NamedTuple):
    """A decision, and the record of the report that led to it."""

    decision: AdaptationDecision
    record: Record
    closing: bool


class Bandit:
    """The agent that keeps the state of every run and publishes what it decides.

    For each batch: decisions are confirmed by the broker, then what closed runs found is kept,
    then each run's state is written once, then the batch is acknowledged. A crash in between
    repeats work with the same result.
    """

    def __init__(
        self,
        app: GuardedApp,
        producer: Producer,
        remembering: MemoryWriter,
        bootstrap_servers: str,
    ) -> None:
        self._producer = producer
        self._remembering = remembering
        self._bootstrap_servers = bootstrap_servers
        self._runs = RunTable(bytes_table(app, FOLDED_RUNS.name, SEED_METRICS.partitions))
        app.on_partitions_assigned.connect(self._forget, weak=False)
        app.agent(batch_topic(app, SEED_METRICS.name))(self._read_reports)

    async def _forget(self, *_: object, **__: object) -> None:
        self._runs.forget()

    async def _read_reports(self, stream: StreamT[tuple[Record, ...]]) -> None:
        await process_batches(stream, self._fold_batch, max_records=BATCH_RECORDS)

    async def _fold_batch(self, record_batches: Sequence[RecordBatch]) -> None:
        decided: list[Decided] = []
        self._runs.begin()
        for record_batch in record_batches:
            for record in records_of(record_batch.message):
                report = await self._read(record)
                if report is not None:
                    decided += await self._take(
                        self._runs.of(record_batch, report.run_id), record, report
                    )
            await asyncio.sleep(0)  # whatever fetches or answers gets its turn
        await self._publish(decided)
        await self._remembering.keep(self._runs.closed())
        await self._runs.write()

    async def _read(self, record: Record) -> SeedReport | None:
        report = await read(SeedReport, record, self._producer)
        if report is not None and record.key != report.run_id.encode():
            reason = f"the key is {record.key!r} and must be the run id {report.run_id!r}"
            await self._bury(record, DlqReason.WRONG_KEY, reason)
            return None
        return report

    async def _take(self, run: RunRow, record: Record, report: SeedReport) -> list[Decided]:
        """Fold a report, or ignore or bury it; return what it led to."""
        cause = cause_of(record, report)
        if isinstance(run.kept, EndedRun):
            await self._refuse(run.kept, record, report)
            return []
        if run.kept is not None and report.seq <= run.kept.last_seq:
            await self._take_again(run, run.kept, record, report, cause)
            return []
        try:
            state, decisions = fold(run.kept, report, cause)
        except RunUnfoldable as error:
            if run.kept is not None:
                await self._break(run, record, DlqReason.UNFOLDABLE, str(error))
            else:
                unfit = DlqReason.UNFOLDABLE if report.run_config else DlqReason.UNOPENED
                await self._bury(record, unfit, str(error))
            return []
        except SequenceGap as error:
            await require_missing(self._bootstrap_servers, run, record, report)
            await self._break(
                run, record, DlqReason.HOLE, f"{error}; it is not on the topic before"
            )
            return []
        REPORTS_FOLDED.inc()
        run.fold_into(state, record, report.seq, cause.sha256)
        if report.closing:
            RUNS_CLOSED.inc()
            run.end(RunEnd.CLOSED, record, f"run {report.run_id} was closed by report {report.seq}")
        return [Decided(decision, record, report.closing) for decision in decisions]

    async def _take_again(
        self, run: RunRow, state: FoldState, record: Record, report: SeedReport, cause: Cause
    ) -> None:
        """Ignore a report folded before, unless it says something else than it did then.

        Then two trainers report as one run. Which of them a later report comes from cannot be
        known, and no audit could repeat what was decided: the run is broken.
        """
        before = run.recent.get(report.seq, cause.sha256)
        run_config = report.run_config
        if before == cause.sha256 and (run_config is None or run_config == state.run.run_config):
            REPORTS_REPEATED.inc()
            return
        what = "opens it a second time" if run_config else "was another when it was folded"
        reason = f"run {report.run_id}: report {report.seq} {what}; two runs have one id"
        await self._break(run, record, DlqReason.CONTRADICTION, reason)

    async def _refuse(self, ended: EndedRun, record: Record, report: SeedReport) -> None:
        """Ignore the reports that came before a run ended, and bury those that come after."""
        broken = ended.ended is RunEnd.BROKEN
        if broken and record.offset > ended.offset:
            await self._bury(
                record, DlqReason.BROKEN, f"nothing is folded any more: {ended.reason}"
            )
        elif broken:
            REPORTS_REPEATED.inc()
        elif report.run_config and digest(report.run_config) != ended.opening_sha256:
            reason = f"{ended.reason} and cannot be opened again; give the new run another id"
            await self._bury(record, DlqReason.CONTRADICTION, reason)
        elif report.seq > ended.last_seq:
            reason = f"{ended.reason}; report {report.seq} comes after"
            await self._bury(record, DlqReason.CLOSED, reason)
        else:
            REPORTS_REPEATED.inc()

    async def _break(self, run: RunRow, record: Record, unfit: DlqReason, reason: str) -> None:
        """Bury a record and fold nothing more of its run; other runs go on."""
        run.end(RunEnd.BROKEN, record, reason)
        RUNS_BROKEN.labels(unfit).inc()
        log.error(
            "run broken",
            reason=reason,
            remedy=f"its later reports go to {SEED_METRICS.dead_letters}; start it anew as another",
        )
        await self._bury(record, unfit, reason)

    async def _bury(self, record: Record, unfit: DlqReason, reason: str) -> None:
        await send_to_dlq(record, unfit, reason, self._producer)

    async def _publish(self, decided: Sequence[Decided]) -> None:
        await self._producer.publish_all(
            ADAPTATION_DECISION,
            [
                TracedEvent(each.decision, child_traceparent(traceparent_of(each.record.headers)))
                for each in decided
            ],
        )
        for decision, record, closing in decided:
            DECISIONS.labels(decision.strategy or ("seal" if closing else "answer")).inc()
            note_latency(record.timestamp_ms / 1000, time.time())
            log.info(
                "decided",
                run=decision.run_id,
                seq=decision.seq,
                strategy=decision.strategy,
                why=decision.reason,
            )


def run_bandit_worker(settings: Settings) -> int:
    """Run the bandit until SIGTERM; return the process's exit code."""
    app = make_app(
        BANDIT_APP,
        bootstrap_servers=settings.kafka_bootstrap_servers,
        data_dir=settings.home / "faust" / BANDIT_APP,
        instance_id=settings.instance_id,
        session_timeout_s=settings.session_timeout_s,
    )
    producer = Producer(settings.kafka_bootstrap_servers, source="/esper/worker/bandit")
    Bandit(app, producer, MemoryWriter(settings), settings.kafka_bootstrap_servers)
    topics = {
        SEED_METRICS.name: SEED_METRICS.partitions,
        SEED_METRICS.dead_letters: 1,
        ADAPTATION_DECISION.name: ADAPTATION_DECISION.partitions,
    }
    with served(settings.metrics_host, settings.metrics_port, partial(is_ready, app)):
        return run(app, topics=topics, close=producer.stop)
