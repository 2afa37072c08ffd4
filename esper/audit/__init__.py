"""The audit: derive a run's decisions from its reports again and compare the bytes.

A run's records go in, from the topics or from an exported history file. An `AuditResult` comes out:
the number of identical decisions, or the first record that differs and the difference.
"""

from esper.audit.compare import AuditResult, audit, cause_of
from esper.audit.finding import Finding
from esper.audit.history import (
    HistoryUnreadable,
    RunRecords,
    fetch_history,
    read_history,
    with_kernels,
    write_history,
)
from esper.audit.replay import last_state

__all__ = [
    "AuditResult",
    "Finding",
    "HistoryUnreadable",
    "RunRecords",
    "audit",
    "cause_of",
    "fetch_history",
    "last_state",
    "read_history",
    "with_kernels",
    "write_history",
]
