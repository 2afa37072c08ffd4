"""The bandit's table of runs, and when its cache of decoded states is used."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from esper.audit import cause_of
from esper.orchestrator import FoldState, fold
from esper.topics.bus import Record
from esper.topics.codec import encode, sha256_of
from esper.topics.models import PolicySpec, RunConfig, SeedReport
from esper.workers.bandit import run_table
from esper.workers.bandit.run_table import RECENT_REPORTS, EndedRun, RunEnd, RunTable


class Table(dict[bytes, bytes]):
    """Stands for a `ConfirmedTable`: a mapping whose writes are confirmed at once."""

    async def confirmed(self) -> None:
        """Return: there are no unconfirmed writes."""


class RecordBatch:
    """Stands for a Faust event; only a real table reads its partition."""


def report(run_id: str, seq: int) -> SeedReport:
    run_config = RunConfig(
        seed=0, slots={"a": 1}, policy=PolicySpec(), host_params=1, report_interval_steps=1
    )
    return SeedReport(run_id=run_id, seq=seq, step=seq, run_config=None if seq else run_config)


def record(run_id: str, seq: int, offset: int | None = None) -> Record:
    value = encode(report(run_id, seq))
    return Record("t", 0, seq if offset is None else offset, 0, run_id.encode(), value)


class Worker:
    """Folds reports into a table, batch by batch, as the bandit does."""

    def __init__(self, table: Mapping[bytes, bytes]) -> None:
        self.table: Any = table
        self.run_table = RunTable(self.table)
        self.record_batch: Any = RecordBatch()

    def fold(self, run_id: str, seq: int, *, write: bool = True) -> None:
        """Fold one report as one batch; without `write` the batch is dropped."""
        self.run_table.begin_batch()
        run = self.run_table.row(self.record_batch, run_id)
        current = report(run_id, seq)
        assert not isinstance(run.content, EndedRun)
        state = fold(run.content, current, cause_of(record(run_id, seq), current)).state
        run.update(state, record(run_id, seq), seq, sha256_of(encode(current)))
        if write:
            asyncio.run(self.run_table.write())

    def end(self, run_id: str, offset: int) -> None:
        """Open a run and close it by the record at `offset`."""
        self.fold(run_id, 0)
        self.run_table.begin_batch()
        run = self.run_table.row(self.record_batch, run_id)
        run.end(RunEnd.CLOSED, record(run_id, 1, offset), "closed")
        asyncio.run(self.run_table.write())

    def last_seq(self, run_id: str) -> int:
        """Return the last folded report that the next batch sees; -1 without one."""
        self.run_table.begin_batch()
        kept = self.run_table.row(self.record_batch, run_id).content
        return -1 if kept is None else kept.last_seq


@pytest.fixture
def worker() -> Worker:
    return Worker(Table())


def test_a_state_stays_decoded_while_the_table_holds_its_bytes(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.fold("run", 0)

    def decode_again(value: bytes) -> FoldState:
        raise AssertionError("the state was decoded again")

    monkeypatch.setattr(FoldState, "from_bytes", decode_again)
    assert worker.last_seq("run") == 0


def test_a_state_that_another_worker_wrote_is_decoded_again(worker: Worker) -> None:
    worker.fold("run", 0)
    other = Worker(Table(worker.table))
    other.fold("run", 1)
    worker.table.update(other.table)
    assert worker.last_seq("run") == 1


def test_a_run_missing_from_the_table_has_no_state(worker: Worker) -> None:
    worker.fold("run", 0)
    worker.table.clear()
    assert worker.last_seq("run") == -1


def test_a_dropped_batch_changes_nothing(worker: Worker) -> None:
    """A rebalance cancels a batch, for example; its reports are read again."""
    worker.fold("run", 0)
    worker.fold("run", 1, write=False)
    assert worker.last_seq("run") == 0
    assert list(worker.run_table.row(worker.record_batch, "run").recent) == [0]


@pytest.mark.parametrize(("limit", "most"), [("MAX_DECODED_RUNS", 3), ("MAX_DECODED_BYTES", 900)])
def test_the_cache_stays_within_its_limits(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(run_table, limit, most)
    for number in range(20):
        worker.fold(f"run-{number}", 0)
    kept = worker.run_table._decoded
    held = {"MAX_DECODED_RUNS": len(kept), "MAX_DECODED_BYTES": worker.run_table._decoded_bytes}
    assert 0 < held[limit] <= most
    assert worker.run_table._decoded_bytes == sum(len(run.value or b"") for run in kept.values())
    assert list(kept)[-1] == b"run-19"
    assert all(worker.last_seq(f"run-{number}") == 0 for number in range(20))


def test_only_the_digests_of_the_last_reports_are_kept(worker: Worker) -> None:
    for seq in range(RECENT_REPORTS + 10):
        worker.fold("run", seq)
    recent = worker.run_table.row(worker.record_batch, "run").recent
    assert list(recent) == list(range(10, RECENT_REPORTS + 10))


@pytest.mark.parametrize("restarted", [False, True])
def test_only_the_last_ended_runs_are_kept(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """The order is that in which the runs ended, also after the table was restored."""
    monkeypatch.setattr(run_table, "ENDED_PER_PARTITION", 4)
    worker.fold("under-way", 0)
    for number in range(4):
        worker.end(f"run-{9 - number}", offset=100 + number)
    if restarted:
        worker = Worker(Table(sorted(worker.table.items())))
    for number in range(4, 6):
        worker.end(f"run-{9 - number}", offset=100 + number)
    assert set(worker.table) == {b"under-way", b"run-7", b"run-6", b"run-5", b"run-4"}


def test_a_state_is_never_decoded_as_an_ended_run(worker: Worker) -> None:
    """The first bytes of the value distinguish the two."""
    worker.fold("run", 0)
    assert not worker.table[b"run"].startswith(b'{"ended"')
    worker.end("over", 7)
    kept = RunTable(worker.table).row(worker.record_batch, "over").content
    assert isinstance(kept, EndedRun)
    assert kept.offset == 7
