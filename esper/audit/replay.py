"""The state that a run's reports lead to."""

from esper.audit.compare import cause_of
from esper.audit.history import RunRecords
from esper.orchestrator import FoldState, fold
from esper.topics.codec import decode
from esper.topics.models import SeedReport


def last_state(history: RunRecords) -> FoldState:
    """Return the state of a run after its last report; of one that an audit found identical."""
    state: FoldState | None = None
    for record in history.reports:
        report = decode(SeedReport, record.value)
        state, _ = fold(state, report, cause_of(record, report))
    assert state is not None
    return state
