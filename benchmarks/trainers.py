"""Many open runs: what each trainer hears, how long the workers take, and how much they hold.

One run with a site of every signature is measured first, then many with three of them each: both
need the same kernels, and those that the first has are on the topic when the others open.
"""

import time
from collections.abc import Sequence
from threading import Event
from typing import Final, NamedTuple

import psutil

from benchmarks.flood import named
from benchmarks.report_load import REPORTS_A_DECISION
from benchmarks.result import BenchmarkError, Figure, Measurement, figure
from benchmarks.simulated_trainers import Pace, Traffic, Trainers, config_of
from benchmarks.stack import Stack, local_stack
from esper.blueprint import kernel_id
from esper.settings import STACK_FILE
from esper.topics.bus import Bus, Record, StartOffset
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    BLUEPRINT_SUBMITTED,
    KERNEL_READY,
    KERNEL_REQUESTED,
)
from esper.topics.models import Blueprint, SiteKind, SiteSignature
from esper.workers.local import read_state

SITES_A_TRAINER: Final = 3
PROCESSES: Final = 4
TIMEOUT_S: Final = 240.0
MEGABYTE: Final = 1e6
KILOBYTE: Final = 1e3
PROCESSES_OF_STACK: Final = ("compile", "bandit", "kafka")


class Workload(NamedTuple):
    """Trainers, distinct site signatures, blueprints of each phase, reports of each trainer.

    `interval_s` is between two reports of a trainer, `idle_s` the time without any.
    """

    trainers: int
    signatures: int
    blueprints: int
    reports: int
    interval_s: float
    idle_s: float


FULL: Final = Workload(
    trainers=200, signatures=20, blueprints=15, reports=41, interval_s=2.0, idle_s=10.0
)
QUICK: Final = Workload(
    trainers=4, signatures=4, blueprints=1, reports=1, interval_s=0.1, idle_s=0.1
)


class Planned(NamedTuple):
    """Milliseconds from publishing a blueprint to its requests and its announcements."""

    first_request: float
    last_request: float
    first_ready: float
    last_ready: float


class Phase(NamedTuple):
    """What was measured with a number of open runs; memory in MB and idle broker time by name."""

    planned: list[Planned]
    memory: dict[str, float]
    broker_share: float


def run(quick: bool = False, trainers: int = FULL.trainers) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL._replace(trainers=trainers))


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure one run with all signatures, then all runs."""
    signatures = [
        SiteSignature(kind=SiteKind.VECTOR, x=(16 + number,), h=(16,))
        for number in range(workload.signatures)
    ]
    client = Client(stack.settings.kafka_bootstrap_servers, signatures)
    name = f"fan-out-{time.time_ns():x}"
    try:
        everything = [config_of(stack.settings, f"{name}-all", signatures)]
        with Trainers(everything, PROCESSES):
            client.plan(next(named(f"{name}-warm-up", 1)))
            alone = _phase(stack, client, workload, f"{name}-alone")
        configs = [
            config_of(stack.settings, f"{name}-{number}", _share(signatures, number))
            for number in range(workload.trainers)
        ]
        with Trainers(configs, PROCESSES) as trainers:
            together = _phase(stack, client, workload, f"{name}-together")
            decided_s = trainers.report(Pace(workload.reports, workload.interval_s))
            loaded = _memory(stack)
            client.wait_for_decisions(len(decided_s))
            traffic = trainers.traffic()
            whole = client.whole()
    finally:
        client.close()
    parameters = {
        **workload._asdict(),
        "sites_a_trainer": SITES_A_TRAINER,
        "partitions_of_announcements": KERNEL_READY.partitions,
        "partitions_of_decisions": ADAPTATION_DECISION.partitions,
        "reports_a_second": workload.trainers / workload.interval_s,
        "reports_a_decision": REPORTS_A_DECISION,
    }
    figures = (
        *_traffic_figures(traffic, whole),
        *_latency_figures(alone, together, decided_s),
        *_memory_figures(alone.memory, loaded),
        figure(
            "broker-idle-alone",
            "broker: processor time, 1 idle run",
            "share of a core",
            [alone.broker_share],
        ),
        figure(
            "broker-idle-together",
            "the same, all runs idle",
            "share of a core",
            [together.broker_share],
        ),
    )
    return Measurement(parameters=parameters, figures=figures)


class Client:
    """Publishes blueprints and follows the whole topics, as every trainer did before."""

    def __init__(self, bootstrap_servers: str, signatures: Sequence[SiteSignature]) -> None:
        self._signatures = signatures
        self._awaited: set[bytes] = set()
        self._requested_s: dict[bytes, float] = {}
        self._ready_s: dict[bytes, float] = {}
        self._complete = Event()
        self._decisions = 0
        self._bus = Bus.connect(bootstrap_servers, source="/esper/benchmark")
        self._bus.consume(KERNEL_REQUESTED.name, self._on_request)
        self._bus.consume(KERNEL_READY.name, self._on_ready, start=StartOffset.EARLIEST)
        self._bus.consume(ADAPTATION_DECISION.name, self._on_decision)

    def plan(self, blueprint: Blueprint) -> Planned:
        """Publish a blueprint and wait for its kernels.

        Raises:
            BenchmarkError: a kernel did not come in time.
        """
        self._complete.clear()
        self._requested_s.clear()
        self._ready_s.clear()
        self._awaited = {kernel_id(blueprint, one).encode() for one in self._signatures}
        start = time.perf_counter()
        self._bus.publish(BLUEPRINT_SUBMITTED, blueprint)
        if not self._complete.wait(TIMEOUT_S):
            raise BenchmarkError(
                f"{len(self._ready_s)} of {len(self._awaited)} kernels of "
                f"{blueprint.blueprint_id} are ready after {TIMEOUT_S:g} s"
            )
        requested, ready = self._requested_s.values(), self._ready_s.values()
        ends = (min(requested), max(requested), min(ready), max(ready))
        return Planned(*((end - start) * 1e3 for end in ends))

    def wait_for_decisions(self, count: int) -> None:
        """Wait until the whole topic has this many decisions of this benchmark."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._decisions < count:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self._decisions} of {count} decisions are on the topic")
            time.sleep(0.05)

    def whole(self) -> Traffic:
        """Return the records and bytes of the whole topics so far."""
        ready, decided = (
            self._bus.received[topic.name] for topic in (KERNEL_READY, ADAPTATION_DECISION)
        )
        return Traffic(
            ready.records,
            ready.bytes,
            ready.records,
            decided.records,
            decided.bytes,
            self._decisions,
        )

    def close(self) -> None:
        """Disconnect."""
        self._bus.close()

    def _on_request(self, record: Record) -> None:
        if record.key in self._awaited:
            self._requested_s.setdefault(record.key, time.perf_counter())
            self._note()

    def _on_ready(self, record: Record) -> None:
        if record.key in self._awaited:
            self._ready_s.setdefault(record.key, time.perf_counter())
            self._note()

    def _note(self) -> None:
        # The two topics are consumed by themselves: a kernel may be seen before its request.
        if len(self._ready_s) == len(self._requested_s) == len(self._awaited):
            self._complete.set()

    def _on_decision(self, record: Record) -> None:
        self._decisions += 1


def _share(signatures: Sequence[SiteSignature], number: int) -> list[SiteSignature]:
    """Return the signatures of a trainer's sites."""
    return [signatures[(number + site) % len(signatures)] for site in range(SITES_A_TRAINER)]


def _phase(stack: Stack, client: Client, workload: Workload, name: str) -> Phase:
    planned = [client.plan(blueprint) for blueprint in named(name, workload.blueprints)]
    broker = _process(stack, "kafka")
    before = sum(broker.cpu_times()[:2])
    start = time.monotonic()
    time.sleep(workload.idle_s)
    busy_s = sum(broker.cpu_times()[:2]) - before
    return Phase(planned, _memory(stack), busy_s / (time.monotonic() - start))


def _memory(stack: Stack) -> dict[str, float]:
    """Return the resident megabytes of workers and broker, without their child processes."""
    return {name: _process(stack, name).memory_info().rss / MEGABYTE for name in PROCESSES_OF_STACK}


def _process(stack: Stack, name: str) -> psutil.Process:
    state = read_state(stack.settings.home / STACK_FILE)
    if state is None:
        raise BenchmarkError(f"no stack runs in {stack.settings.home}")
    return psutil.Process(state.require_process(name).pid)


def _traffic_figures(traffic: Sequence[Traffic], whole: Traffic) -> list[Figure]:
    announcements = [one.announcements for one in traffic]
    return [
        figure("announcements", "announcements that a trainer received", "records", announcements),
        figure(
            "announcement-kilobytes",
            "their keys, values and headers",
            "kB",
            [one.announcement_bytes / KILOBYTE for one in traffic],
        ),
        figure(
            "announcements-own",
            "of these, kernels for its sites",
            "records",
            [one.own_announcements for one in traffic],
        ),
        figure(
            "announcements-whole",
            "announcements on the topic, which a trainer read before",
            "records",
            [whole.announcements],
        ),
        figure(
            "announcement-kilobytes-whole",
            "their keys, values and headers",
            "kB",
            [whole.announcement_bytes / KILOBYTE],
        ),
        figure(
            "announcements-share",
            "part of the announcements that a trainer received",
            "share",
            [count / whole.announcements for count in announcements],
        ),
        figure(
            "decisions",
            "decisions that a trainer received",
            "records",
            [one.decisions for one in traffic],
        ),
        figure(
            "decision-kilobytes",
            "their keys, values and headers",
            "kB",
            [one.decision_bytes / KILOBYTE for one in traffic],
        ),
        figure(
            "decisions-own", "of these, its own", "records", [one.own_decisions for one in traffic]
        ),
        figure("decisions-whole", "decisions on the topic", "records", [whole.decisions]),
        figure(
            "decision-kilobytes-whole",
            "their keys, values and headers",
            "kB",
            [whole.decision_bytes / KILOBYTE],
        ),
    ]


def _latency_figures(alone: Phase, together: Phase, decided_s: Sequence[float]) -> list[Figure]:
    rows = (
        ("first-request", "published → first request of a blueprint"),
        ("last-request", "published → last request"),
        ("first-ready", "published → first kernel ready"),
        ("last-ready", "published → last kernel ready"),
    )
    return [
        *(
            figure(f"{key}-{name}", f"{title}, {runs}", "ms", [one[index] for one in phase.planned])
            for index, (key, title) in enumerate(rows)
            for name, runs, phase in (("alone", "1 run", alone), ("together", "all runs", together))
        ),
        figure(
            "report-to-decision",
            "report → its decision in the trainer, all runs reporting",
            "ms",
            [seconds * 1e3 for seconds in decided_s],
        ),
    ]


def _memory_figures(alone: dict[str, float], loaded: dict[str, float]) -> list[Figure]:
    return [
        figure(f"memory-{name}-{when}", f"resident memory of {name}, {runs}", "MB", [memory[name]])
        for name in PROCESSES_OF_STACK
        for when, runs, memory in (("alone", "1 run", alone), ("together", "all runs", loaded))
    ]
