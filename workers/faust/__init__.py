"""The runtime of both workers: a guarded Faust app, dead letters, metrics and logs.

In: records of Kafka, processed in order by the agents of a worker. Out: calls of the agents, dead
letters, `/metrics` and `/healthz`. `guards` closes the ways in which plain Faust loses records.
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
from esper.workers.faust.logs import configure_logging
from esper.workers.faust.metrics import metrics_server

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
    "configure_logging",
    "is_ready",
    "make_app",
    "metrics_server",
    "process_batches",
    "process_in_order",
    "raw_topic",
    "read",
    "record_of",
    "records_of",
    "run",
    "send_to_dlq",
    "table_writes_for",
    "verify_topics",
]
