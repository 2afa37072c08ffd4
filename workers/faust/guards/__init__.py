"""Faust without its four ways to lose records.

A `GuardedApp` is a Faust app with the defects of `Guard` closed; `process_in_order` and
`process_batches` are how its agents work through a stream, the latter in parcels of records.
Records go in from the broker; what comes out is at least one call per record, and a committed
offset that never overtakes the work.
"""

from esper.workers.faust.guards.guard import ALL, TESTED_FAUST, Guard, UntestedFaust, require_tested
from esper.workers.faust.guards.guarded import GuardedApp
from esper.workers.faust.guards.processing import (
    process_batches,
    process_in_order,
    table_writes_for,
)
from esper.workers.faust.guards.record_batches import RecordBatch, RecordBatchSchema, records_of
from esper.workers.faust.guards.table import ConfirmedTable

__all__ = [
    "ALL",
    "TESTED_FAUST",
    "ConfirmedTable",
    "Guard",
    "GuardedApp",
    "RecordBatch",
    "RecordBatchSchema",
    "UntestedFaust",
    "process_batches",
    "process_in_order",
    "records_of",
    "require_tested",
    "table_writes_for",
]
