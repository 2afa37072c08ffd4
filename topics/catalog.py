"""The topics: event, key, partitions, cleanup policy and retention."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

from esper.topics.codec import encode
from esper.topics.models import (
    AdaptationDecision,
    AuditionRequested,
    Blueprint,
    DecisionCandidates,
    Event,
    KernelAuditioned,
    KernelCompiled,
    KernelReady,
    KernelRequested,
    KernelRevoked,
    RunRequest,
    SeedReport,
    TrainingRun,
)

WORK_PARTITIONS = 12

ANNOUNCEMENT_PARTITIONS = 48
"""More than of work: the more there are, the fewer kernels for other sites a trainer reads."""

DAY_MS = 24 * 60 * 60 * 1000
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

MAX_VALUE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
"""Largest value to write; the rest of a message is for key, headers and framing."""


class Cleanup(StrEnum):
    """Kafka's `cleanup.policy`: delete by age, or keep the last record of each key."""

    DELETE = "delete"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; `key` names the field of `model` whose value is the record key.

    The key determines the partition, unless `partition_field` names another field that does.
    Workers refuse a record with another key, unless `any_key` allows it. A record of a `signed`
    topic has a signature of its value in the header `ed25519-signature`.
    `retention_ms` applies with `Cleanup.DELETE`; -1 keeps records for ever.
    """

    name: str
    model: type[Event]
    key: str
    partitions: int
    cleanup: Cleanup
    summary: str
    retention_ms: int = 7 * DAY_MS
    any_key: bool = False
    signed: bool = False
    partition_field: str | None = None

    @property
    def dead_letters(self) -> str:
        """Name of the dead-letter topic."""
        return f"{self.name}.dlq"

    def key_of(self, event: Event) -> bytes:
        """Return the record key of an event."""
        return str(getattr(event, self.key)).encode()

    def partition_key_of(self, event: Event) -> bytes:
        """Return the bytes whose hash is the partition of an event's record."""
        return partition_key(getattr(event, self.partition_field or self.key))


def partition_key(value: object) -> bytes:
    """Return the bytes to hash for a value of the field that determines the partition.

    An event counts by its canonical JSON, any other value by its text.
    """
    return encode(value) if isinstance(value, BaseModel) else str(value).encode()


@dataclass(frozen=True, slots=True)
class Table:
    """A Faust table; its changelog has as many partitions as the `source` topic of its keys."""

    app: str
    name: str
    source: Topic

    @property
    def changelog(self) -> str:
        """Name that Faust gives to the changelog topic."""
        return f"{self.app}-{self.name}-changelog"


BLUEPRINT_SUBMITTED = Topic(
    name="blueprint-submitted",
    model=Blueprint,
    key="blueprint_id",
    partitions=1,
    cleanup=Cleanup.DELETE,
    retention_ms=-1,
    any_key=True,
    summary="Blueprints from any producer; plain JSON without headers is accepted.",
)
TRAINING_RUN = Topic(
    name="training-run",
    model=TrainingRun,
    key="run_id",
    partitions=1,
    cleanup=Cleanup.COMPACT,
    summary="The sites of a run, and whether the run is open.",
)
KERNEL_REQUESTED = Topic(
    name="kernel-requested",
    model=KernelRequested,
    key="kernel_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    summary="Compile work: one blueprint for one site signature.",
)
KERNEL_COMPILED = Topic(
    name="kernel-compiled",
    model=KernelCompiled,
    key="kernel_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    summary="Every compile attempt: started, then ready with measurements or rejected.",
)
KERNEL_READY = Topic(
    name="kernel-ready",
    model=KernelReady,
    key="kernel_id",
    partitions=ANNOUNCEMENT_PARTITIONS,
    cleanup=Cleanup.COMPACT,
    partition_field="site_signature",
    summary="Location, digest and signature of each finished kernel.",
)
KERNEL_REVOKED = Topic(
    name="kernel-revoked",
    model=KernelRevoked,
    key="sha256",
    partitions=1,
    cleanup=Cleanup.COMPACT,
    summary="Artifacts that trainers must not load any more, signed.",
)
AUDITION_REQUESTED = Topic(
    name="audition-requested",
    model=AuditionRequested,
    key="kernel_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    summary="Audition work: one kernel to train on one snapshot.",
)
KERNEL_AUDITIONED = Topic(
    name="kernel-auditioned",
    model=KernelAuditioned,
    key="run_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    signed=True,
    summary="The result of each audition: gain, standard error, cost, and the trained weights.",
)
SEED_METRICS = Topic(
    name="seed-metrics",
    model=SeedReport,
    key="run_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    retention_ms=90 * DAY_MS,
    summary="The reports of a run, in order.",
)
ADAPTATION_DECISION = Topic(
    name="adaptation-decision",
    model=AdaptationDecision,
    key="run_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    retention_ms=90 * DAY_MS,
    signed=True,
    summary="Decisions to plant, keep and remove kernels; a hash chain within a run.",
)
DECISION_CANDIDATES = Topic(
    name="decision-candidates",
    model=DecisionCandidates,
    key="run_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    retention_ms=90 * DAY_MS,
    summary="Candidates that decisions hold a digest of; audits read them, trainers do not.",
)
RUN_CONTROL = Topic(
    name="run-control",
    model=RunRequest,
    key="run_id",
    partitions=WORK_PARTITIONS,
    cleanup=Cleanup.DELETE,
    summary="Manual requests to a run: cull, keep, pause, resume.",
)

TOPICS: tuple[Topic, ...] = (
    BLUEPRINT_SUBMITTED,
    TRAINING_RUN,
    KERNEL_REQUESTED,
    KERNEL_COMPILED,
    KERNEL_READY,
    KERNEL_REVOKED,
    AUDITION_REQUESTED,
    KERNEL_AUDITIONED,
    SEED_METRICS,
    ADAPTATION_DECISION,
    DECISION_CANDIDATES,
    RUN_CONTROL,
)

_NOT_BY_KEY = frozenset(topic.name for topic in TOPICS if topic.partition_field)


def is_partitioned_by_key(topic: str) -> bool:
    """Return whether the record key determines the partition, as on topics of other programs."""
    return topic not in _NOT_BY_KEY


COMPILE_APP = "esper-compile"
BANDIT_APP = "esper-bandit"
AUDITION_APP = "esper-audition"

PLANNED_BLUEPRINTS = Table(COMPILE_APP, "blueprints", BLUEPRINT_SUBMITTED)
PLANNED_RUNS = Table(COMPILE_APP, "runs", TRAINING_RUN)
FOLDED_RUNS = Table(BANDIT_APP, "runs", SEED_METRICS)

TABLES: tuple[Table, ...] = (PLANNED_BLUEPRINTS, PLANNED_RUNS, FOLDED_RUNS)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create: name, partition count and topic configuration."""

    name: str
    partitions: int
    config: tuple[tuple[str, str], ...]


def topic_specs() -> Iterator[TopicSpec]:
    """Yield every topic that Esper needs: catalog, dead-letter topics and tables' changelogs."""
    for topic in TOPICS:
        yield _spec(topic.name, topic.partitions, topic.cleanup, topic.retention_ms)
        yield _spec(topic.dead_letters, 1, Cleanup.DELETE, 30 * DAY_MS)
    for table in TABLES:
        yield _spec(table.changelog, table.source.partitions, Cleanup.COMPACT)


def _spec(name: str, partitions: int, cleanup: Cleanup, retention_ms: int = -1) -> TopicSpec:
    config = [("cleanup.policy", cleanup.value), ("max.message.bytes", str(MAX_MESSAGE_BYTES))]
    if cleanup is Cleanup.DELETE:
        config.append(("retention.ms", str(retention_ms)))
    return TopicSpec(name, partitions, tuple(config))
