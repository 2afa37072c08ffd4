"""One client floods the topic with blueprints: how long another client waits for its kernel."""

from collections.abc import Iterator
from threading import Event
from time import perf_counter
from typing import Final, NamedTuple

from benchmarks.result import BenchmarkError, Goal, Measurement, figure
from benchmarks.stack import Stack, local_stack
from esper.blueprint import kernel_id, shipped_named
from esper.topics.bus import Bus, Record, read_topic
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_READY, TRAINING_RUN
from esper.topics.models import Blueprint, RunStatus, SiteKind, SiteSignature, TrainingRun

SITE: Final = SiteSignature(kind=SiteKind.VECTOR, x=(32,), h=(12,))
TIMEOUT_S: Final = 900.0


class Workload(NamedTuple):
    """Blueprints of the flood, and blueprints that the other client publishes one by one."""

    flood: int
    honest: int


FULL: Final = Workload(flood=10_000, honest=20)
QUICK: Final = Workload(flood=60, honest=2)


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure the other client without and with the flood, one blueprint after another."""
    servers = stack.settings.kafka_bootstrap_servers
    opened = TrainingRun(run_id="flooded", status=RunStatus.OPEN, sites={"fc": SITE})
    flooder = Bus.connect(servers, source="/esper/benchmark/flooder")
    client = Client(servers)
    try:
        flooder.publish(TRAINING_RUN, opened).result(TIMEOUT_S)
        alone_s = [client.wait_s(one) for one in named("alone", workload.honest)]
        start = perf_counter()
        flood = [
            flooder.publish(BLUEPRINT_SUBMITTED, one) for one in named("flood", workload.flood)
        ]
        for sent in flood:
            sent.result(TIMEOUT_S)
        published_s = perf_counter() - start
        flooded_s = [client.wait_s(one) for one in named("honest", workload.honest)]
        offered = {record.key for record in read_topic(servers, KERNEL_READY.name)}
    finally:
        client.close()
        flooder.close()
    return Measurement(
        parameters={**workload._asdict(), "compile_processes": 1},
        figures=(
            figure(
                "wait-in-flood",
                "submitted → kernel-ready for one client, while another has just published 10,000",
                "s",
                flooded_s,
                goal=Goal(sense="at most", limit=10.0, of="worst"),
            ),
            figure("wait-alone", "the same before the flood", "s", alone_s),
            figure(
                "flood-published", "the flood: first to last acknowledgement", "s", [published_s]
            ),
            figure(
                "kernels-offered",
                "kernels that the run is offered by then, those of the other client included",
                "kernels",
                [float(len(offered))],
            ),
        ),
    )


def named(prefix: str, count: int) -> Iterator[Blueprint]:
    """Yield distinct blueprints for the site."""
    entry = shipped_named("linear-bottleneck").model_copy(update={"kind": SiteKind.VECTOR})
    for number in range(count):
        yield entry.model_copy(update={"blueprint_id": f"{prefix}-{number}"})


class Client:
    """Publishes a blueprint and waits for its kernel."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._bus = Bus.connect(bootstrap_servers, source="/esper/benchmark/honest")
        self._bus.consume(KERNEL_READY.name, self._note)
        self._awaited = b""
        self._arrived = Event()

    def wait_s(self, blueprint: Blueprint) -> float:
        """Return the seconds from publishing a blueprint to its kernel.

        Raises:
            BenchmarkError: the kernel did not come in time.
        """
        self._arrived.clear()
        self._awaited = kernel_id(blueprint, SITE).encode()
        start = perf_counter()
        self._bus.publish(BLUEPRINT_SUBMITTED, blueprint)
        if not self._arrived.wait(TIMEOUT_S):
            raise BenchmarkError(f"{blueprint.blueprint_id} is not ready after {TIMEOUT_S:g} s")
        return perf_counter() - start

    def close(self) -> None:
        """Disconnect."""
        self._bus.close()

    def _note(self, record: Record) -> None:
        if record.key == self._awaited:
            self._arrived.set()
