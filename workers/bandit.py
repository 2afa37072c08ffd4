"""The bandit worker: reports in, folded run by run, decisions out."""

import time
from collections.abc import Sequence
from functools import partial

import structlog
from faust import EventT, StreamT

from esper.audit import cause_of
from esper.orchestrator import FoldState, RunUnfoldable, fold
from esper.settings import Settings
from topics.bus import Publisher, Record
from topics.catalog import ADAPTATION_DECISION, BANDIT_APP, FOLDED_RUNS, SEED_METRICS
from topics.codec import child_traceparent, traceparent_of
from topics.models import AdaptationDecision, SeedReport
from workers.app import bytes_table, is_ready, make_app, raw_topic, run
from workers.guards import GuardedApp, process_batches, table_writes_for
from workers.intake import bury, read, record_of
from workers.metrics import (
    DECISIONS,
    REPORT_TO_DECISION_SECONDS,
    REPORTS_FOLDED,
    REPORTS_REPEATED,
    served,
)
from workers.remembering import Remembering

log = structlog.get_logger()

BATCH_RECORDS = 64


class Bandit:
    """The agent that keeps the state of every run and publishes what it decides.

    For each batch: decisions are confirmed by the broker, then what closed runs found is kept,
    then each run's state is written once, then the batch is acknowledged. A crash in between
    repeats work with the same result.
    """

    def __init__(self, app: GuardedApp, publisher: Publisher, remembering: Remembering) -> None:
        self._publisher = publisher
        self._remembering = remembering
        self._runs = bytes_table(app, FOLDED_RUNS.name, SEED_METRICS.partitions)
        app.agent(raw_topic(app, SEED_METRICS.name))(self._read_reports)

    async def _read_reports(self, stream: StreamT[bytes]) -> None:
        await process_batches(stream, self._fold_batch, max_records=BATCH_RECORDS, within_s=0.0)

    async def _fold_batch(self, events: Sequence[EventT[bytes]]) -> None:
        touched: dict[bytes, tuple[EventT[bytes], FoldState]] = {}
        for event in events:
            record = record_of(event)
            report = await self._read(record)
            if report is None:
                continue
            key = report.run_id.encode()
            before = touched[key][1] if key in touched else self._state(event, key)
            state = await self._fold(before, report, record)
            if state is not None:
                touched[key] = event, state
        await self._remembering.keep(state for _, state in touched.values() if state.closed)
        for key, (event, state) in touched.items():
            with table_writes_for(event):
                self._runs[key] = state.to_bytes()
        await self._runs.confirmed()

    async def _read(self, record: Record) -> SeedReport | None:
        report = await read(SeedReport, record, self._publisher)
        if report is not None and record.key != report.run_id.encode():
            reason = f"the key is {record.key!r} and must be the run id {report.run_id!r}"
            await bury(record, reason, self._publisher)
            return None
        return report

    def _state(self, event: EventT[bytes], key: bytes) -> FoldState | None:
        with table_writes_for(event):
            value = self._runs.get(key)
        return FoldState.from_bytes(value) if value else None

    async def _fold(
        self, before: FoldState | None, report: SeedReport, record: Record
    ) -> FoldState | None:
        try:
            state, decisions = fold(before, report, cause_of(record, report))
        except RunUnfoldable as error:
            await bury(record, str(error), self._publisher)
            return before
        if state is before:
            REPORTS_REPEATED.inc()
            return before
        for decision in decisions:
            await self._publish(decision, record, report.closing)
        REPORTS_FOLDED.inc()
        return state

    async def _publish(self, decision: AdaptationDecision, record: Record, closing: bool) -> None:
        trace = child_traceparent(traceparent_of(record.headers))
        await self._publisher.publish(ADAPTATION_DECISION, decision, traceparent=trace)
        DECISIONS.labels(decision.strategy or ("seal" if closing else "answer")).inc()
        REPORT_TO_DECISION_SECONDS.observe(max(0.0, time.time() - record.timestamp_ms / 1000))
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
    publisher = Publisher(settings.kafka_bootstrap_servers, source="/esper/worker/bandit")
    Bandit(app, publisher, Remembering(settings))
    topics = {
        SEED_METRICS.name: SEED_METRICS.partitions,
        SEED_METRICS.dead_letters: 1,
        ADAPTATION_DECISION.name: ADAPTATION_DECISION.partitions,
    }
    with served(settings.metrics_host, settings.metrics_port, partial(is_ready, app)):
        return run(app, topics=topics, close=publisher.stop)
