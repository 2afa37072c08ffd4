"""What the bandit's table holds of each run, and the decoded states in memory beside it.

A run under way has the bytes of its fold's state. A run that is over has an `EndedRun`, a few hundred
bytes that tell its late reports from those of a new run.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from esper.orchestrator import FoldState
from esper.topics.bus import Record
from esper.topics.codec import digest
from esper.workers.faust.guards import ConfirmedTable, RecordBatch, table_writes_for

ENDED_PER_PARTITION = 1_000
"""How many runs that are over are remembered, the last ones of each partition."""

MAX_DECODED_RUNS = 1_024
MAX_DECODED_BYTES = 8 * 1024 * 1024
"""How many states stay decoded, and how many bytes they have encoded: some five times that."""

RECENT_REPORTS = 64
"""Of how many reports of a run the digest is known in memory."""


class RunEnd(StrEnum):
    """How a run ended for the bandit."""

    CLOSED = "closed"
    BROKEN = "broken"


class EndedRun(BaseModel):
    """A run of which nothing is folded any more: by which record it ended, and why.

    `last_seq` is the last report folded, `opening_sha256` the digest of what opened the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ended: RunEnd
    run_id: str
    last_seq: int
    opening_sha256: str
    partition: int
    offset: int
    reason: str

    def to_bytes(self) -> bytes:
        """Return JSON that begins with the field `ended`, which no state of a fold does."""
        return self.model_dump_json().encode()


ENDED_PREFIX = b'{"ended":'


@dataclass(slots=True)
class RunRow:
    """A run as one batch has it: `value` is what the table held when the batch came to it.

    `last_offset` is where the last report folded stood, -1 where this process does not know;
    `recent` has the digests of the last reports folded, by seq. `closed` is the state in which the
    run was closed by a report of this batch.
    """

    record_batch: RecordBatch
    value: bytes | None
    kept: FoldState | EndedRun | None
    last_offset: int = -1
    recent: dict[int, str] = field(default_factory=dict)
    changed: bool = False
    closed: FoldState | None = None

    def fold_into(self, state: FoldState, record: Record, seq: int, value_sha256: str) -> None:
        """Take over the state after a report."""
        self.kept, self.changed = state, True
        self.last_offset = record.offset
        self.recent[seq] = value_sha256
        if len(self.recent) > RECENT_REPORTS:
            del self.recent[next(iter(self.recent))]

    def end(self, how: RunEnd, record: Record, reason: str) -> None:
        """Keep no more of the run than that it ended, by this record.

        Raises:
            ValueError: there is no state of it that could end.
        """
        if not isinstance(self.kept, FoldState):
            raise ValueError(f"the run of {record.key!r} has no state to end")
        self.closed = self.kept if how is RunEnd.CLOSED else None
        self.kept = EndedRun(
            ended=how,
            run_id=self.kept.run_id,
            last_seq=self.kept.last_seq,
            opening_sha256=digest(self.kept.run.run_config),
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
        self.changed = True


class RunTable:
    """The runs of a worker: read from the table, changed by a batch, written once at its end.

    States stay decoded from batch to batch. One counts only while the table holds the very bytes
    that it was written as: after a rebalance the table may hold others.
    """

    def __init__(self, table: ConfirmedTable) -> None:
        self._table = table
        self._batch: dict[bytes, RunRow] = {}
        self._decoded: OrderedDict[bytes, RunRow] = OrderedDict()
        self._decoded_bytes = 0
        self._ended: dict[int, deque[bytes]] | None = None

    def begin(self) -> None:
        """Begin a batch; what an unfinished one changed is forgotten, its records come again."""
        self._batch = {}

    def forget(self) -> None:
        """Forget all that was decoded, for another worker may have written the table since.

        A batch in work goes on as it began; it ends before the next one takes its records again.
        """
        self._decoded.clear()
        self._decoded_bytes = 0
        self._ended = None

    def of(self, record_batch: RecordBatch, run_id: str) -> RunRow:
        """Return the run of a report in `record_batch`, as the batch has it so far."""
        key = run_id.encode()
        run = self._batch.get(key)
        if run is None:
            run = self._batch[key] = self._read(record_batch, key)
        return run

    def closed(self) -> list[FoldState]:
        """Return the last states of the runs that the batch closed."""
        return [run.closed for run in self._batch.values() if run.closed is not None]

    async def write(self) -> None:
        """Write every run that the batch changed and return when the broker has them all."""
        for key, run in self._batch.items():
            if run.changed and run.kept is not None:
                self._write(key, run, run.kept)
        self._batch = {}
        await self._table.confirmed()

    def _read(self, record_batch: RecordBatch, key: bytes) -> RunRow:
        with table_writes_for(record_batch):
            value = self._table.get(key)
        known = self._decoded.get(key)
        if known is not None and known.value == value:
            # A copy: if the batch comes to nothing, what is kept here must be as it was.
            return RunRow(record_batch, value, known.kept, known.last_offset, dict(known.recent))
        return RunRow(record_batch, value, _decoded(value))

    def _write(self, key: bytes, run: RunRow, kept: FoldState | EndedRun) -> None:
        run.value = kept.to_bytes()
        run.changed = False
        with table_writes_for(run.record_batch):
            self._table[key] = run.value
            self._forget_decoded(key)
            if isinstance(kept, EndedRun):
                self._remember_ended(kept.partition, key)
            else:
                self._remember_decoded(key, run)

    def _remember_decoded(self, key: bytes, run: RunRow) -> None:
        self._decoded[key] = run
        self._decoded_bytes += len(run.value or b"")
        while len(self._decoded) > MAX_DECODED_RUNS or self._decoded_bytes > MAX_DECODED_BYTES:
            self._forget_decoded(next(iter(self._decoded)))

    def _forget_decoded(self, key: bytes) -> None:
        known = self._decoded.pop(key, None)
        if known is not None:
            self._decoded_bytes -= len(known.value or b"")

    def _remember_ended(self, partition: int, key: bytes) -> None:
        """Note that a run has ended, and drop the longest ended of too many from the table."""
        if self._ended is None:
            self._ended = ended_in(self._table)
        ended = self._ended.setdefault(partition, deque())
        if key not in ended:
            ended.append(key)
        while len(ended) > ENDED_PER_PARTITION:
            oldest = ended.popleft()
            if oldest in self._table:
                del self._table[oldest]


def ended_in(table: Mapping[bytes, bytes]) -> dict[int, deque[bytes]]:
    """Return the keys of the runs that are over, by partition, the longest ended first."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for key, value in table.items():
        if value and value.startswith(ENDED_PREFIX):
            ended = EndedRun.model_validate_json(value)
            found.setdefault(ended.partition, []).append((ended.offset, key))
    return {partition: deque(key for _, key in sorted(runs)) for partition, runs in found.items()}


def _decoded(value: Any) -> FoldState | EndedRun | None:
    if not value:
        return None
    if value.startswith(ENDED_PREFIX):
        return EndedRun.model_validate_json(value)
    return FoldState.from_bytes(value)
