"""What both workers run on: a Faust app with guards, dead letters, metrics and logs.

Records come in from Kafka; the agents of a worker process them in order. `guards` closes the
ways in which Faust alone loses records.
"""

from esper.workers.faust.app import (
    EXIT_FAILED,
    EXIT_STOPPED,
    EXIT_TOPICS_NOT_READY,
    STOP_SLACK_S,
    TopicsNotReady,
    WorkerError,
    batch_topic,
    bytes_table,
    is_ready,
    make_app,
    raw_topic,
    run,
    verify_topics,
)
from esper.workers.faust.dead_letters import DlqReason, read, record_of, send_to_dlq
from esper.workers.faust.guards import (
    ConfirmedTable,
    Guard,
    GuardedApp,
    RecordBatch,
    UntestedFaust,
    process_batches,
    process_in_order,
    records_of,
    table_writes_for,
)
from esper.workers.faust.logs import configure
from esper.workers.faust.metrics import served

__all__ = [
    "EXIT_FAILED",
    "EXIT_STOPPED",
    "EXIT_TOPICS_NOT_READY",
    "STOP_SLACK_S",
    "ConfirmedTable",
    "DlqReason",
    "Guard",
    "GuardedApp",
    "RecordBatch",
    "TopicsNotReady",
    "UntestedFaust",
    "WorkerError",
    "batch_topic",
    "bytes_table",
    "configure",
    "is_ready",
    "make_app",
    "process_batches",
    "process_in_order",
    "raw_topic",
    "read",
    "record_of",
    "records_of",
    "run",
    "send_to_dlq",
    "served",
    "table_writes_for",
    "verify_topics",
]
