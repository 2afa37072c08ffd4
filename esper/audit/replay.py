"""The state that a run's reports lead to."""

from esper.audit.compare import cause_of
from esper.audit.history import RunRecords
from esper.orchestrator import FoldState, fold
from esper.topics.codec import decode
from esper.topics.models import SeedReport


def last_state(records: RunRecords) -> FoldState:
    """Return the state of a run after its last report.

    The run must have passed an audit, so that its reports are in order and can be folded.
    """
    state: FoldState | None = None
    for record in records.reports:
        report = decode(SeedReport, record.value)
        state = fold(state, report, cause_of(record, report)).state
    assert state is not None
    return state
