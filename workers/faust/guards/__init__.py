"""A Faust app that does not lose records.

`GuardedApp` is a Faust app in which each defect named by `Guard` is closed. Its agents process a
stream with `process_in_order`, or in batches of records with `process_batches`. In: records of
Kafka. Out: at least one call per record, and a committed offset that never passes unfinished work.
"""

from esper.workers.faust.guards.guard import ALL, TESTED_FAUST, Guard, UntestedFaust, require_tested
from esper.workers.faust.guards.guarded import GuardedApp
from esper.workers.faust.guards.processing import (
    Handle,
    process_batches,
    process_in_order,
    table_writes_for,
)
from esper.workers.faust.guards.record_batches import RecordBatch, RecordBatchSchema, records_of
from esper.workers.faust.guards.table import ChangelogUnconfirmed, ConfirmedTable

__all__ = [
    "ALL",
    "TESTED_FAUST",
    "ChangelogUnconfirmed",
    "ConfirmedTable",
    "Guard",
    "GuardedApp",
    "Handle",
    "RecordBatch",
    "RecordBatchSchema",
    "UntestedFaust",
    "process_batches",
    "process_in_order",
    "records_of",
    "require_tested",
    "table_writes_for",
]
