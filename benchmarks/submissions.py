"""Submit new blueprints to a running stack and wait for their kernels."""

import queue
from collections.abc import Iterator, Mapping
from itertools import count
from time import perf_counter
from typing import Self

from benchmarks.result import BenchmarkError
from esper.blueprint import kernel_id, shipped
from esper.settings import Settings
from esper.topics.bus import Bus, Record, StartOffset
from esper.topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_READY, TRAINING_RUN
from esper.topics.models import Blueprint, RunStatus, SiteKind, SiteSignature, TrainingRun

READY_TIMEOUT_S = 30.0

MAX_KERNELS = 10_000
"""Places at each site: the limits of a run are not what these benchmarks measure."""

DIGITS_SITES: Mapping[str, SiteSignature] = {
    "conv2": SiteSignature(kind=SiteKind.FEATURE_MAP, x=(4, 4, 4), h=(8, 4, 4)),
    "fc1": SiteSignature(kind=SiteKind.VECTOR, x=(32,), h=(12,)),
    "rows": SiteSignature(kind=SiteKind.SEQUENCE, x=(8, 16), h=(8, 16)),
}
"""One site of each kind; two are sites of the digits host, the third has a similar size."""


def of_one_kind() -> Iterator[Blueprint]:
    """Yield every shipped blueprint once per kind, restricted to that kind."""
    for blueprint in shipped():
        for kind in blueprint.kinds:
            yield blueprint.model_copy(update={"kind": kind})


def renamed(blueprint: Blueprint, name: object) -> Blueprint:
    """Return a blueprint under a new name, so that it must be compiled."""
    return blueprint.model_copy(
        update={"blueprint_id": f"{blueprint.blueprint_id}-{blueprint.kinds[0][:1]}{name}"}
    )


def new_blueprints() -> Iterator[Blueprint]:
    """Yield the shipped blueprints endlessly, restricted to one kind and under new names."""
    for number in count():
        for blueprint in of_one_kind():
            yield renamed(blueprint, number)


class Submitter:
    """Submits blueprints while a run with given sites is open; a context manager."""

    def __init__(self, settings: Settings, sites: Mapping[str, SiteSignature]) -> None:
        self._run = TrainingRun(
            run_id="benchmark",
            status=RunStatus.OPEN,
            sites=dict(sites),
            kernels_per_site=MAX_KERNELS,
            kernels_per_publisher=MAX_KERNELS,
        )
        self._ready: queue.SimpleQueue[tuple[bytes | None, float]] = queue.SimpleQueue()
        self._bus = Bus.connect(settings.kafka_bootstrap_servers, source="/esper/benchmark")

    def __enter__(self) -> Self:
        self._bus.consume(KERNEL_READY.name, self._note, start=StartOffset.LATEST)
        self._bus.publish(TRAINING_RUN, self._run).result(READY_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        closed = self._run.model_copy(update={"status": RunStatus.CLOSED})
        self._bus.publish(TRAINING_RUN, closed).result(READY_TIMEOUT_S)
        self._bus.close()

    def ready_after_s(self, *blueprints: Blueprint) -> float:
        """Publish blueprints and return the seconds until the last of their kernels is ready.

        One clock measures from the first publication to the arrival of the last record.

        Raises:
            BenchmarkError: 30 s passed without a further kernel.
        """
        missing, taken_s = self.await_kernels(*blueprints)
        if missing:
            raise BenchmarkError(
                f"{len(missing)} kernels of {blueprints[0].blueprint_id} and others are not ready "
                f"after {READY_TIMEOUT_S:g} s; see the log of the compile worker"
            )
        return taken_s

    def await_kernels(self, *blueprints: Blueprint) -> tuple[set[bytes], float]:
        """Publish blueprints; return the ids of missing kernels, and the seconds to the last one.

        Kernels are missing when none has arrived for 30 s.
        """
        awaited = {key for blueprint in blueprints for key in self.kernels_of(blueprint)}
        start = perf_counter()
        for blueprint in blueprints:
            self._bus.publish(BLUEPRINT_SUBMITTED, blueprint)
        last = start
        while awaited:
            try:
                key, arrived = self._ready.get(timeout=READY_TIMEOUT_S)
            except queue.Empty:
                break
            if key in awaited:
                awaited.discard(key)
                last = arrived
        return awaited, last - start

    def kernels_of(self, blueprint: Blueprint) -> list[bytes]:
        """Return the ids of a blueprint's kernels at the sites of the open run."""
        return [
            kernel_id(blueprint, signature).encode()
            for signature in self._run.sites.values()
            if signature.kind in blueprint.kinds
        ]

    def _note(self, record: Record) -> None:
        self._ready.put((record.key, perf_counter()))
