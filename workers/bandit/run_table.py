"""The bandit's table of runs, and a cache of its decoded states.

The value of an active run is the bytes of its `FoldState`. The value of an ended run is an
`EndedRun`: a few hundred bytes with which late reports of that run are recognised.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from esper.orchestrator import FoldState
from esper.topics.bus import Record
from esper.topics.catalog import MAX_VALUE_BYTES
from esper.topics.codec import digest
from esper.workers.faust.guards import ConfirmedTable, RecordBatch, table_writes_for

ENDED_PER_PARTITION = 1_000
"""Ended runs kept per partition; the oldest are deleted."""

MAX_DECODED_RUNS = 1_024
MAX_DECODED_BYTES = 8 * 1024 * 1024
"""Limits of the cache, in states and in encoded bytes; decoded they take about five times that."""

RECENT_REPORTS = 64
"""Reports per run whose digest is kept in memory."""

MAX_REASON_CHARS = 500


class RunEnd(StrEnum):
    """How a run ended for the bandit."""

    CLOSED = "closed"
    BROKEN = "broken"


class EndedRun(BaseModel):
    """A run that folds no more reports: the record that ended it, and why.

    `last_seq` is the last folded report, `run_config_sha256` the digest of the run's `RunConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ended: RunEnd
    run_id: str
    last_seq: int
    run_config_sha256: str
    partition: int
    offset: int
    reason: str

    def to_bytes(self) -> bytes:
        """Return JSON that starts with the field `ended`; no `FoldState` does."""
        return self.model_dump_json().encode()


ENDED_PREFIX = b'{"ended":'


@dataclass(slots=True)
class RunRow:
    """One run during a batch; `value` is its table value when the batch first read it.

    `last_offset` is the offset of the last folded report, -1 if this process did not fold it.
    `recent` maps the seq of the last folded reports to their digests. `record` is the last one that
    this batch folded, `encoded` the content's bytes once `encode` was called, and `closed_state`
    the last state of a run that a report of this batch closed.
    """

    record_batch: RecordBatch
    value: bytes | None
    content: FoldState | EndedRun | None
    last_offset: int = -1
    recent: dict[int, str] = field(default_factory=dict)
    changed: bool = False
    record: Record | None = None
    encoded: bytes | None = None
    closed_state: FoldState | None = None

    def update(self, state: FoldState, record: Record, seq: int, value_sha256: str) -> None:
        """Replace the state by the one after report `seq`, which is in `record`."""
        self.content, self.changed = state, True
        self.record, self.encoded = record, None
        self.last_offset = record.offset
        self.recent[seq] = value_sha256
        if len(self.recent) > RECENT_REPORTS:
            del self.recent[next(iter(self.recent))]

    def end(self, how: RunEnd, record: Record, reason: str) -> None:
        """Replace the state, if there is one, by an `EndedRun`; `record` ended the run."""
        state = self.content if isinstance(self.content, FoldState) else None
        self.closed_state = state if how is RunEnd.CLOSED else None
        self.content = EndedRun(
            ended=how,
            run_id=(record.key or b"").decode(),
            last_seq=-1 if state is None else state.last_seq,
            run_config_sha256="" if state is None else digest(state.run.run_config),
            partition=record.partition,
            offset=record.offset,
            reason=reason[:MAX_REASON_CHARS],
        )
        self.changed, self.encoded = True, None

    def encode(self) -> bytes:
        """Return the content as the table stores it; kept until the content changes.

        Raises:
            ValueError: there is no content, or it cannot be encoded, or is too large for the table.
        """
        if self.encoded is not None:
            return self.encoded
        if self.content is None:
            raise ValueError("the run has no content")
        try:
            encoded = self.content.to_bytes()
        except TypeError as error:  # orjson's error for an integer beyond 64 bits
            raise ValueError(f"the state cannot be stored: {error}") from error
        if len(encoded) > MAX_VALUE_BYTES:
            raise ValueError(f"the state has {len(encoded)} bytes, more than {MAX_VALUE_BYTES}")
        self.encoded = encoded
        return encoded


class RunTable:
    """The runs of a worker: read from the table, changed by a batch, written once at its end.

    Decoded states are cached across batches. A cached state is used only while the table holds the
    same bytes: after a rebalance the table may hold those of another worker.
    """

    def __init__(self, table: ConfirmedTable) -> None:
        self._table = table
        self._batch: dict[bytes, RunRow] = {}
        self._decoded: OrderedDict[bytes, RunRow] = OrderedDict()
        self._decoded_bytes = 0
        self._ended: dict[int, deque[bytes]] | None = None

    def begin_batch(self) -> None:
        """Begin a batch; drop the changes of an unfinished one, whose records are read again."""
        self._batch = {}

    def clear_cache(self) -> None:
        """Drop all decoded states: another worker may have written the table.

        The rows of a running batch stay; it ends before the next batch reads its records again.
        """
        self._decoded.clear()
        self._decoded_bytes = 0
        self._ended = None

    def row(self, record_batch: RecordBatch, run_id: str) -> RunRow:
        """Return the row of a run that has a report in `record_batch`, with the batch's changes."""
        key = run_id.encode()
        row = self._batch.get(key)
        if row is None:
            row = self._batch[key] = self._read(record_batch, key)
        return row

    def changed_rows(self) -> list[RunRow]:
        """Return the rows that the batch has changed."""
        return [row for row in self._batch.values() if row.changed]

    def closed_states(self) -> list[FoldState]:
        """Return the last states of the runs that the batch closed."""
        return [row.closed_state for row in self._batch.values() if row.closed_state is not None]

    async def write(self) -> None:
        """Write every row that the batch changed; return when the broker has confirmed them."""
        for key, row in self._batch.items():
            if row.changed and row.content is not None:
                self._write(key, row, row.content)
        self._batch = {}
        await self._table.confirmed()

    def _read(self, record_batch: RecordBatch, key: bytes) -> RunRow:
        with table_writes_for(record_batch):
            value = self._table.get(key)
        cached = self._decoded.get(key)
        if cached is not None and cached.value == value:
            # Copy `recent`: if the batch is dropped, the cached row must not have its changes.
            recent = dict(cached.recent)
            return RunRow(record_batch, value, cached.content, cached.last_offset, recent)
        return RunRow(record_batch, value, _decoded(key, value))

    def _write(self, key: bytes, row: RunRow, content: FoldState | EndedRun) -> None:
        row.value, row.encoded = row.encode(), None
        row.changed = False
        with table_writes_for(row.record_batch):
            self._table[key] = row.value
            self._remove_from_cache(key)
            if isinstance(content, EndedRun):
                self._add_ended(content.partition, key)
            else:
                self._add_to_cache(key, row)

    def _add_to_cache(self, key: bytes, row: RunRow) -> None:
        self._decoded[key] = row
        self._decoded_bytes += len(row.value or b"")
        while len(self._decoded) > MAX_DECODED_RUNS or self._decoded_bytes > MAX_DECODED_BYTES:
            self._remove_from_cache(next(iter(self._decoded)))

    def _remove_from_cache(self, key: bytes) -> None:
        row = self._decoded.pop(key, None)
        if row is not None:
            self._decoded_bytes -= len(row.value or b"")

    def _add_ended(self, partition: int, key: bytes) -> None:
        """Note that a run has ended; delete the oldest ended runs beyond the limit."""
        if self._ended is None:
            self._ended = ended_by_partition(self._table)
        ended = self._ended.setdefault(partition, deque())
        if key not in ended:
            ended.append(key)
        while len(ended) > ENDED_PER_PARTITION:
            oldest = ended.popleft()
            if oldest in self._table:
                del self._table[oldest]


def ended_by_partition(table: Mapping[bytes, bytes]) -> dict[int, deque[bytes]]:
    """Return the keys of the ended runs by partition, the longest ended first."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for key, value in table.items():
        if value and value.startswith(ENDED_PREFIX):
            ended = _decoded(key, value)
            assert isinstance(ended, EndedRun)
            found.setdefault(ended.partition, []).append((ended.offset, key))
    return {partition: deque(key for _, key in sorted(runs)) for partition, runs in found.items()}


def _decoded(key: bytes, value: Any) -> FoldState | EndedRun | None:
    """Return the content of a table value; that of an unreadable value is a broken run."""
    if not value:
        return None
    try:
        if value.startswith(ENDED_PREFIX):
            return EndedRun.model_validate_json(value)
        return FoldState.from_bytes(value)
    except Exception as error:  # noqa: BLE001 - whatever another version or a stranger has written
        return EndedRun(
            ended=RunEnd.BROKEN,
            run_id=key.decode(errors="replace"),
            last_seq=-1,
            run_config_sha256="",
            partition=-1,
            offset=-1,
            reason=f"its state in the table cannot be read: {error}"[:MAX_REASON_CHARS],
        )
