"""What the bandit's table holds of a run, and when the state decoded beside it counts."""

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
    """What a table is to its runs: a mapping of bytes by bytes that can be waited for."""

    async def confirmed(self) -> None:
        """Nothing is under way."""


class RecordBatch:
    """Tells a real table which partition is written to; here it tells nothing."""


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
        self.runs = RunTable(self.table)
        self.record_batch: Any = RecordBatch()

    def fold(self, run_id: str, seq: int, *, write: bool = True) -> None:
        """One batch of one report; without `write` it comes to nothing."""
        self.runs.begin()
        run = self.runs.of(self.record_batch, run_id)
        told = report(run_id, seq)
        assert not isinstance(run.kept, EndedRun)
        state, _ = fold(run.kept, told, cause_of(record(run_id, seq), told))
        run.fold_into(state, record(run_id, seq), seq, sha256_of(encode(told)))
        if write:
            asyncio.run(self.runs.write())

    def end(self, run_id: str, offset: int) -> None:
        """Open a run and close it by the record at `offset`."""
        self.fold(run_id, 0)
        self.runs.begin()
        run = self.runs.of(self.record_batch, run_id)
        run.end(RunEnd.CLOSED, record(run_id, 1, offset), "closed")
        asyncio.run(self.runs.write())

    def last_seq(self, run_id: str) -> int:
        """The last report that the next batch will take for folded."""
        self.runs.begin()
        kept = self.runs.of(self.record_batch, run_id).kept
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


def test_a_state_that_another_worker_wrote_is_decoded_anew(worker: Worker) -> None:
    worker.fold("run", 0)
    other = Worker(Table(worker.table))
    other.fold("run", 1)
    worker.table.update(other.table)
    assert worker.last_seq("run") == 1


def test_a_run_whose_state_is_gone_from_the_table_has_none(worker: Worker) -> None:
    worker.fold("run", 0)
    worker.table.clear()
    assert worker.last_seq("run") == -1


def test_a_batch_that_came_to_nothing_leaves_no_trace(worker: Worker) -> None:
    """It was cancelled by a rebalance, say: its reports are read again."""
    worker.fold("run", 0)
    worker.fold("run", 1, write=False)
    assert worker.last_seq("run") == 0
    assert list(worker.runs.of(worker.record_batch, "run").recent) == [0]


@pytest.mark.parametrize(("limit", "most"), [("MAX_DECODED_RUNS", 3), ("MAX_DECODED_BYTES", 900)])
def test_no_more_states_stay_decoded_than_the_limits_allow(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(run_table, limit, most)
    for number in range(20):
        worker.fold(f"run-{number}", 0)
    kept = worker.runs._decoded
    held = {"MAX_DECODED_RUNS": len(kept), "MAX_DECODED_BYTES": worker.runs._decoded_bytes}
    assert 0 < held[limit] <= most
    assert worker.runs._decoded_bytes == sum(len(run.value or b"") for run in kept.values())
    assert list(kept)[-1] == b"run-19"
    assert all(worker.last_seq(f"run-{number}") == 0 for number in range(20))


def test_digests_are_known_of_the_last_reports_only(worker: Worker) -> None:
    for seq in range(RECENT_REPORTS + 10):
        worker.fold("run", seq)
    recent = worker.runs.of(worker.record_batch, "run").recent
    assert list(recent) == list(range(10, RECENT_REPORTS + 10))


@pytest.mark.parametrize("restarted", [False, True])
def test_of_the_runs_that_ended_the_last_ones_are_remembered(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """In the order in which they ended, also where the table was filled by a recovery."""
    monkeypatch.setattr(run_table, "ENDED_PER_PARTITION", 4)
    worker.fold("under-way", 0)
    for number in range(4):
        worker.end(f"run-{9 - number}", offset=100 + number)
    if restarted:
        worker = Worker(Table(sorted(worker.table.items())))
    for number in range(4, 6):
        worker.end(f"run-{9 - number}", offset=100 + number)
    assert set(worker.table) == {b"under-way", b"run-7", b"run-6", b"run-5", b"run-4"}


def test_a_state_is_never_taken_for_a_run_that_ended(worker: Worker) -> None:
    """They are told apart by how their bytes begin."""
    worker.fold("run", 0)
    assert not worker.table[b"run"].startswith(b'{"ended"')
    worker.end("over", 7)
    kept = RunTable(worker.table).of(worker.record_batch, "over").kept
    assert isinstance(kept, EndedRun)
    assert kept.offset == 7
