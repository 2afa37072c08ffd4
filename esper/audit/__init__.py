"""Proof that a run's decisions are what its reports led to.

A run's records go in, from the topics or from an exported history; out comes either the count of
decisions derived again byte for byte, or the first record that differs and how.
"""

from esper.audit.compare import AuditResult, Finding, audit, cause_of
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
