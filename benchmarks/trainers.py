"""Many open runs: what each trainer hears, how long the workers take, and how much they hold.

One run with a site of every signature is measured first, then many with three of them each: both
need the same kernels, and those that the first has are on the topic when the others open.
"""

import time
from collections.abc import Iterator, Sequence
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
MEASURED: Final = {
    "compile": "compile worker",
    "bandit": "bandit worker",
    "kafka": "broker",
}
"""Processes of the stack, and their titles."""


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
    trainers=200, signatures=20, blueprints=15, reports=21, interval_s=10.0, idle_s=10.0
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


class Usage(NamedTuple):
    """Time by a clock and processor time in seconds, and resident megabytes, by process name."""

    clock_s: float
    processor_s: dict[str, float]
    memory: dict[str, float]

    def shares_until(self, later: "Usage") -> dict[str, float]:
        """Return the processor time of each process as a share of a core."""
        passed_s = later.clock_s - self.clock_s
        return {
            name: (later.processor_s[name] - before) / passed_s
            for name, before in self.processor_s.items()
        }


class Phase(NamedTuple):
    """What was measured with a number of open runs: latencies, and usage around an idle time."""

    planned: list[Planned]
    before_idle: Usage
    after_idle: Usage

    @property
    def idle(self) -> dict[str, float]:
        """The processor time of each process while no run reports, as a share of a core."""
        return self.before_idle.shares_until(self.after_idle)


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
            loaded = usage(stack)
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
        *_usage_figures(alone, together, loaded, workload),
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
    before = usage(stack)
    time.sleep(workload.idle_s)
    return Phase(planned, before, usage(stack))


def usage(stack: Stack) -> Usage:
    """Return the usage of workers and broker so far, without their child processes."""
    state = read_state(stack.settings.home / STACK_FILE)
    if state is None:
        raise BenchmarkError(f"no stack runs in {stack.settings.home}")
    found = {name: psutil.Process(state.require_process(name).pid) for name in MEASURED}
    return Usage(
        time.monotonic(),
        {name: sum(process.cpu_times()[:2]) for name, process in found.items()},
        {name: process.memory_info().rss / MEGABYTE for name, process in found.items()},
    )


def _traffic_figures(traffic: Sequence[Traffic], whole: Traffic) -> Iterator[Figure]:
    rows: tuple[tuple[str, str, str, Sequence[float]], ...] = (
        (
            "announcements",
            "announcements that a trainer received",
            "records",
            [one.announcements for one in traffic],
        ),
        (
            "announcements-own",
            "of these, kernels for its sites",
            "records",
            [one.own_announcements for one in traffic],
        ),
        (
            "announcement-kilobytes",
            "bytes of these announcements",
            "kB",
            [one.announcement_bytes / KILOBYTE for one in traffic],
        ),
        (
            "announcements-whole",
            "announcements on the topic: a reader of all of it",
            "records",
            [whole.announcements],
        ),
        (
            "announcement-kilobytes-whole",
            "bytes of all announcements",
            "kB",
            [whole.announcement_bytes / KILOBYTE],
        ),
        (
            "decisions",
            "decisions that a trainer received",
            "records",
            [one.decisions for one in traffic],
        ),
        ("decisions-own", "of these, its own", "records", [one.own_decisions for one in traffic]),
        (
            "decision-kilobytes",
            "bytes of these decisions",
            "kB",
            [one.decision_bytes / KILOBYTE for one in traffic],
        ),
        ("decisions-whole", "decisions on the topic", "records", [whole.decisions]),
        (
            "decision-kilobytes-whole",
            "bytes of all decisions",
            "kB",
            [whole.decision_bytes / KILOBYTE],
        ),
    )
    for key, title, unit, values in rows:
        yield figure(key, title, unit, values)


def _latency_figures(alone: Phase, together: Phase, decided_s: Sequence[float]) -> Iterator[Figure]:
    rows = (
        ("first-request", "blueprint published → first request"),
        ("last-request", "blueprint published → last request, one for each signature"),
        ("first-ready", "blueprint published → first kernel ready"),
        ("last-ready", "blueprint published → last kernel ready"),
    )
    for index, (key, title) in enumerate(rows):
        for name, runs, phase in (("alone", "1 run", alone), ("together", "all runs", together)):
            values = [one[index] for one in phase.planned]
            yield figure(f"{key}-{name}", f"{title}: {runs}", "ms", values)
    yield figure(
        "report-to-decision",
        "report → its decision in the trainer, all runs reporting",
        "ms",
        [seconds * 1e3 for seconds in decided_s],
    )


def _usage_figures(
    alone: Phase, together: Phase, loaded: Usage, workload: Workload
) -> Iterator[Figure]:
    reports = workload.trainers * workload.reports
    for name, title in MEASURED.items():
        before, after = alone.after_idle.memory[name], loaded.memory[name]
        yield figure(
            f"memory-{name}-alone", f"resident memory of the {title}: 1 run", "MB", [before]
        )
        yield figure(
            f"memory-{name}-together", "the same: all runs, after their reports", "MB", [after]
        )
        for when, runs, phase in (("alone", "1 run", alone), ("together", "all runs", together)):
            yield figure(
                f"idle-{name}-{when}",
                f"processor time of the {title}, no run reporting: {runs}",
                "share of a core",
                [phase.idle[name]],
            )
        spent_s = loaded.processor_s[name] - together.after_idle.processor_s[name]
        yield figure(
            f"report-{name}",
            f"processor time of the {title} for each report",
            "ms",
            [spent_s * 1e3 / reports],
        )
