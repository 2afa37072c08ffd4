"""Proof that a run's decisions are what its reports led to.

A run's records go in, from the topics or from an exported history; out comes either the count of
decisions derived again byte for byte, or the first record that differs and how.
"""

from esper.audit.compare import Finding, Verdict, audit, cause_of
from esper.audit.history import (
    History,
    HistoryUnreadable,
    fetch_history,
    read_history,
    with_kernels,
    write_history,
)

__all__ = [
    "Finding",
    "History",
    "HistoryUnreadable",
    "Verdict",
    "audit",
    "cause_of",
    "fetch_history",
    "read_history",
    "with_kernels",
    "write_history",
]
