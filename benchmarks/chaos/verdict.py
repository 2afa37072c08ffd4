"""What must hold after the faults, read from the topics."""

from collections import Counter
from collections.abc import Iterable, Iterator

from esper.audit import audit, fetch_history
from esper.blueprint import RejectionCode
from esper.settings import Settings
from esper.topics.bus import Record, read_topic
from esper.topics.catalog import KERNEL_COMPILED, SEED_METRICS, TRAINING_RUN, Topic
from esper.topics.codec import decode
from esper.topics.models import (
    CompileStatus,
    KernelCompiled,
    OutcomeStatus,
    RunStatus,
    SeedReport,
    TrainingRun,
)


def breaches(settings: Settings, blueprints: Iterable[str]) -> Iterator[str]:
    """Yield one line for each promise that the run has broken; `blueprints` were published."""
    yield from _wrongly_answered(settings, blueprints)
    yield from _applied_twice(settings)
    for run_id in sorted(_closed_runs(settings)):
        verdict = audit(fetch_history(settings.kafka_bootstrap_servers, run_id))
        if not verdict.identical:
            yield str(verdict)


def attempts(settings: Settings) -> Counter[str]:
    """Return how many attempts to compile each kernel are recorded as ready."""
    events = (decode(KernelCompiled, record.value) for record in _all(settings, KERNEL_COMPILED))
    return Counter(one.kernel_id for one in events if one.status is CompileStatus.READY)


def finished_runs(settings: Settings) -> tuple[int, int]:
    """Return how many runs are closed, and how many were opened."""
    runs = {record.key for record in _all(settings, TRAINING_RUN)}
    return len(_closed_runs(settings)), len(runs)


def _wrongly_answered(settings: Settings, blueprints: Iterable[str]) -> Iterator[str]:
    """Yield the blueprints that are neither ready nor rejected, or both; deferred ones are not."""
    answers: dict[str, set[CompileStatus]] = {}
    for record in _all(settings, KERNEL_COMPILED):
        event = decode(KernelCompiled, record.value)
        if (
            event.status is not CompileStatus.STARTED
            and event.reason_code != RejectionCode.DEFERRED
        ):
            answers.setdefault(event.blueprint_id, set()).add(event.status)
    for name in blueprints:
        found = answers.get(name, set())
        if len(found) != 1:
            yield f"blueprint {name} has {len(found)} kinds of answers"


def _applied_twice(settings: Settings) -> Iterator[str]:
    applied = Counter(
        outcome.decision_id
        for report in _reports(settings)
        for outcome in report.outcomes
        if outcome.status is OutcomeStatus.APPLIED
    )
    for decision_id, count in applied.items():
        if count > 1:
            yield f"decision {decision_id[:12]} was applied {count} times"


def _reports(settings: Settings) -> Iterator[SeedReport]:
    """Yield each report once: a producer may have sent it again."""
    seen = set()
    for record in _all(settings, SEED_METRICS):
        report = decode(SeedReport, record.value)
        if (report.run_id, report.seq) not in seen:
            seen.add((report.run_id, report.seq))
            yield report


def _closed_runs(settings: Settings) -> set[str]:
    last = {record.key: record for record in _all(settings, TRAINING_RUN)}
    runs = (decode(TrainingRun, record.value) for record in last.values())
    return {run.run_id for run in runs if run.status is RunStatus.CLOSED}


def _all(settings: Settings, topic: Topic) -> list[Record]:
    return read_topic(settings.kafka_bootstrap_servers, topic.name)
