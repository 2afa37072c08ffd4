"""The bandit worker: fold the reports of each run and publish its decisions."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import structlog
from faust import StreamT

from esper.audit import cause_of
from esper.orchestrator import FoldState, RunUnfoldable, SequenceGap, fold
from esper.settings import Settings
from esper.signing import Purpose, SigningKey
from esper.topics.bus import Producer, Record, TracedEvent
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    BANDIT_APP,
    DECISION_CANDIDATES,
    FOLDED_RUNS,
    MAX_VALUE_BYTES,
    SEED_METRICS,
)
from esper.topics.codec import child_traceparent, digest, encode, traceparent_of
from esper.topics.connection import Broker
from esper.topics.models import AdaptationDecision, Cause, DecisionCandidates, Event, SeedReport
from esper.workers.bandit.memory_writer import MemoryWriter
from esper.workers.bandit.run_table import EndedRun, RunEnd, RunRow, RunTable
from esper.workers.bandit.sequence_gaps import ReportSkipped, require_report_missing
from esper.workers.faust.app import batch_topic, bytes_table, is_ready, make_app, run
from esper.workers.faust.dead_letters import DlqReason, read, send_to_dlq
from esper.workers.faust.guards import GuardedApp, RecordBatch, process_batches, records_of
from esper.workers.faust.metrics import (
    DECISIONS,
    REFUSED_DECISIONS,
    REPORTS_FOLDED,
    REPORTS_REPEATED,
    RUNS_BROKEN,
    RUNS_CLOSED,
    metrics_server,
    observe_latency,
)
from esper.workers.faust.quarantine import INFRASTRUCTURE, attempt, described
from esper.workers.signing_key import signing_key_of

log = structlog.get_logger()

BATCH_RECORDS = 512
"""Records per batch. Larger batches save little and delay the first decision of a backlog."""


class ReportDecision(NamedTuple):
    """A decision and the record of its report; `closing` if that report closed the run.

    `candidates` are those that the decision does not list.
    """

    decision: AdaptationDecision
    candidates: tuple[DecisionCandidates, ...]
    record: Record
    closing: bool

    def traced(self, event: Event) -> TracedEvent:
        """Return an event of the decision, in the trace of the report."""
        return TracedEvent(event, child_traceparent(traceparent_of(self.record.headers)))


class Bandit:
    """The agent that folds reports into the state of their run and publishes the decisions.

    Per batch, in this order: the broker confirms the candidates that decisions do not list, and the
    decisions; closed runs are added to memory, the state of each run is written once, the batch is
    acknowledged. After a crash in between the batch is read again, with the same result.
    """

    def __init__(
        self,
        app: GuardedApp,
        producer: Producer,
        memory_writer: MemoryWriter,
        broker: Broker,
        signing_key: SigningKey,
    ) -> None:
        self._producer = producer
        self._memory_writer = memory_writer
        self._broker = broker
        self._sign = partial(signing_key.sign, Purpose.DECISION)
        self._table = RunTable(bytes_table(app, FOLDED_RUNS.name, SEED_METRICS.partitions))
        app.on_partitions_assigned.connect(self._clear_cache, weak=False)
        app.agent(batch_topic(app, SEED_METRICS.name))(self._read_reports)

    async def _clear_cache(self, *_: object, **__: object) -> None:
        self._table.clear_cache()

    async def _read_reports(self, stream: StreamT[tuple[Record, ...]]) -> None:
        await process_batches(stream, self._fold_batch, max_records=BATCH_RECORDS)

    async def _fold_batch(self, record_batches: Sequence[RecordBatch]) -> None:
        decided: list[ReportDecision] = []
        self._table.begin_batch()
        for record_batch in record_batches:
            for record in records_of(record_batch.message):
                decided += await self._decide(record_batch, record)
            await asyncio.sleep(0)  # let the fetcher and the metrics server run
        await self._break_unwritable(decided)
        await self._publish(decided)
        await self._memory_writer.keep(self._table.closed_states())
        await self._table.write()

    async def _decide(self, record_batch: RecordBatch, record: Record) -> list[ReportDecision]:
        """Return the decisions of a record, none if it is invalid; a failure breaks its run."""
        report = await read(SEED_METRICS, SeedReport, record, self._producer)
        if report is None:
            return []
        row = self._table.row(record_batch, report.run_id)
        decided: list[ReportDecision] = []

        async def fold_report() -> None:
            decided.extend(await self._fold(row, record, report))

        error = await attempt(fold_report, (*INFRASTRUCTURE, ReportSkipped))
        if error is not None:
            await self._break(row, record, DlqReason.FAILED, described(error))
        return decided

    async def _break_unwritable(self, decided: list[ReportDecision]) -> None:
        """Break the runs whose state or decisions cannot be written, and drop their decisions."""
        by_run: dict[bytes | None, list[AdaptationDecision]] = {}
        for one in decided:
            by_run.setdefault(one.record.key, []).append(one.decision)
        for row in self._table.changed_rows():
            if row.record is None:
                continue  # An ended run can always be written.
            try:
                row.encode()
                require_sendable(by_run.get(row.record.key, ()))
            except ValueError as error:
                await self._break(row, row.record, DlqReason.FAILED, str(error))
                decided[:] = [one for one in decided if one.record.key != row.record.key]

    async def _fold(self, row: RunRow, record: Record, report: SeedReport) -> list[ReportDecision]:
        """Fold a report; return its decisions, none for a repeated or an invalid report."""
        cause = cause_of(record, report)
        if isinstance(row.content, EndedRun):
            await self._refuse_late(row.content, record, report)
            return []
        if row.content is not None and report.seq <= row.content.last_seq:
            await self._check_repeated(row, row.content, record, report, cause)
            return []
        try:
            state, decisions, candidates = fold(row.content, report, cause)
        except RunUnfoldable as error:
            if row.content is not None:
                await self._break(row, record, DlqReason.UNFOLDABLE, str(error))
            else:
                label = DlqReason.UNFOLDABLE if report.run_config else DlqReason.NO_RUN_CONFIG
                await self._dead_letter(record, label, str(error))
            return []
        except SequenceGap as error:
            await require_report_missing(self._broker, row, record, report)
            await self._break(
                row,
                record,
                DlqReason.SEQUENCE_GAP,
                f"{error}; the topic does not have it before this record",
            )
            return []
        REPORTS_FOLDED.inc()
        REFUSED_DECISIONS.inc(report.refused_decisions)
        row.update(state, record, report.seq, cause.sha256)
        if report.closing:
            RUNS_CLOSED.inc()
            row.end(RunEnd.CLOSED, record, f"run {report.run_id} was closed by report {report.seq}")
        return [
            ReportDecision(
                decision,
                tuple(event for event in candidates if event.index == decision.index),
                record,
                report.closing,
            )
            for decision in decisions
        ]

    async def _check_repeated(
        self, row: RunRow, state: FoldState, record: Record, report: SeedReport, cause: Cause
    ) -> None:
        """Ignore a report that was folded before; break the run if its content has changed.

        Changed content means that two trainers report under one run id. Later reports could come
        from either of them, and no audit could reproduce the decisions.
        """
        folded_sha256 = row.recent.get(report.seq, cause.sha256)
        run_config = report.run_config
        if folded_sha256 == cause.sha256 and (
            run_config is None or run_config == state.run.run_config
        ):
            REPORTS_REPEATED.inc()
            return
        what = "opens the run again" if run_config else "differs from the folded one"
        reason = f"run {report.run_id}: report {report.seq} {what}; two runs share one id"
        await self._break(row, record, DlqReason.CONTRADICTION, reason)

    async def _refuse_late(self, ended: EndedRun, record: Record, report: SeedReport) -> None:
        """Ignore reports from before the end of a run; send later ones to the DLQ."""
        broken = ended.ended is RunEnd.BROKEN
        if broken and record.offset > ended.offset:
            await self._dead_letter(record, DlqReason.BROKEN, f"the run is broken: {ended.reason}")
        elif broken:
            REPORTS_REPEATED.inc()
        elif report.run_config and digest(report.run_config) != ended.run_config_sha256:
            reason = f"{ended.reason} and cannot be opened again; give the new run another id"
            await self._dead_letter(record, DlqReason.CONTRADICTION, reason)
        elif report.seq > ended.last_seq:
            reason = f"{ended.reason}; report {report.seq} came after that"
            await self._dead_letter(record, DlqReason.CLOSED, reason)
        else:
            REPORTS_REPEATED.inc()

    async def _break(self, row: RunRow, record: Record, label: DlqReason, reason: str) -> None:
        """Send a record to the DLQ and end its run; other runs continue."""
        row.end(RunEnd.BROKEN, record, reason)
        RUNS_BROKEN.labels(label).inc()
        log.error(
            "run broken",
            reason=reason,
            remedy=f"its later reports go to {SEED_METRICS.dead_letters}; start a new run",
        )
        await self._dead_letter(record, label, reason)

    async def _dead_letter(self, record: Record, label: DlqReason, reason: str) -> None:
        await send_to_dlq(record, label, reason, self._producer)

    async def _publish(self, decided: Sequence[ReportDecision]) -> None:
        # A decision holds the digest of its candidates, so that they must be confirmed first.
        await self._producer.publish_all(
            DECISION_CANDIDATES, [one.traced(event) for one in decided for event in one.candidates]
        )
        await self._producer.publish_all(
            ADAPTATION_DECISION, [one.traced(one.decision) for one in decided], sign=self._sign
        )
        for decision, _, record, closing in decided:
            DECISIONS.labels(decision.strategy or ("seal" if closing else "answer")).inc()
            observe_latency(record.timestamp_ms / 1000, time.time())
            log.info(
                "decided",
                run=decision.run_id,
                seq=decision.seq,
                strategy=decision.strategy,
                why=decision.reason,
            )


def require_sendable(decisions: Iterable[AdaptationDecision]) -> None:
    """Raise ValueError if a decision is too large for its topic.

    Records of other candidates are not: see `CANDIDATES_PER_RECORD`.
    """
    for decision in decisions:
        size = len(encode(decision))
        if size > MAX_VALUE_BYTES:
            raise ValueError(f"decision {decision.seq} has {size} bytes, over {MAX_VALUE_BYTES}")


def run_bandit_worker(settings: Settings) -> int:
    """Run the bandit worker until SIGTERM; return the exit code of the process.

    Raises:
        MissingKey, KeyUnusable: see `signing_key_of`.
        SettingMissing, SecretFileUnusable: the credentials are incomplete.
    """
    signing_key = signing_key_of(settings)
    kafka = settings.kafka
    app = make_app(
        BANDIT_APP,
        bootstrap_servers=kafka,
        data_dir=settings.home / "faust" / BANDIT_APP,
        instance_id=settings.instance_id,
        session_timeout_s=settings.session_timeout_s,
    )
    producer = Producer(kafka, source="/esper/worker/bandit")
    Bandit(app, producer, MemoryWriter(settings), kafka, signing_key)
    topics = {
        SEED_METRICS.name: SEED_METRICS.partitions,
        SEED_METRICS.dead_letters: 1,
        ADAPTATION_DECISION.name: ADAPTATION_DECISION.partitions,
        DECISION_CANDIDATES.name: DECISION_CANDIDATES.partitions,
    }
    with metrics_server(settings.metrics_host, settings.metrics_port, partial(is_ready, app)):
        return run(app, topics=topics, close=producer.stop)
