"""Submitting new blueprints to a running stack, and waiting for their kernels."""

import queue
from collections.abc import Iterator, Mapping
from itertools import count
from time import perf_counter
from typing import Self

from benchmarks.result import BenchmarkError
from esper.blueprint import kernel_id, shipped
from esper.settings import Settings
from topics.bus import Bus, Record, Start
from topics.catalog import BLUEPRINT_SUBMITTED, KERNEL_READY, TRAINING_RUN
from topics.models import Blueprint, RunStatus, SiteKind, SiteSignature, TrainingRun

READY_TIMEOUT_S = 30.0

DIGITS_SITES: Mapping[str, SiteSignature] = {
    "conv2": SiteSignature(kind=SiteKind.FEATURE_MAP, x=(4, 4, 4), h=(8, 4, 4)),
    "fc1": SiteSignature(kind=SiteKind.VECTOR, x=(32,), h=(12,)),
}
"""One site of each kind, as in the digits host: a blueprint of either kind makes one kernel."""


def new_blueprints() -> Iterator[Blueprint]:
    """Yield the shipped blueprints over and over, each time under a new name: never seen before."""
    for number in count():
        for blueprint in shipped():
            yield blueprint.model_copy(
                update={"blueprint_id": f"{blueprint.blueprint_id}-{number}"}
            )


class Submitter:
    """An author of blueprints with a run open at given sites; a context manager."""

    def __init__(self, settings: Settings, sites: Mapping[str, SiteSignature]) -> None:
        self._run = TrainingRun(run_id="benchmark", status=RunStatus.OPEN, sites=dict(sites))
        self._ready: queue.SimpleQueue[tuple[bytes | None, float]] = queue.SimpleQueue()
        self._bus = Bus.connect(settings.kafka_bootstrap_servers, source="/esper/benchmark")

    def __enter__(self) -> Self:
        self._bus.follow(KERNEL_READY.name, self._note, start=Start.NOW)
        self._bus.publish(TRAINING_RUN, self._run).result(READY_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        closed = self._run.model_copy(update={"status": RunStatus.CLOSED})
        self._bus.publish(TRAINING_RUN, closed).result(READY_TIMEOUT_S)
        self._bus.close()

    def ready_after_s(self, blueprint: Blueprint) -> float:
        """Publish a blueprint and return the seconds until the last of its kernels is ready.

        By one clock: from the call that publishes to the arrival of the record.

        Raises:
            BenchmarkError: they are not ready within 30 s.
        """
        awaited = {
            kernel_id(blueprint, signature).encode()
            for signature in self._run.sites.values()
            if signature.kind is blueprint.kind
        }
        start = perf_counter()
        self._bus.publish(BLUEPRINT_SUBMITTED, blueprint)
        arrived = start
        while awaited:
            try:
                key, arrived = self._ready.get(timeout=READY_TIMEOUT_S)
            except queue.Empty:
                raise BenchmarkError(
                    f"{blueprint.blueprint_id} is not ready after {READY_TIMEOUT_S:g} s"
                ) from None
            if key is not None:
                awaited.discard(key)
        return arrived - start

    def _note(self, record: Record) -> None:
        self._ready.put((record.key, perf_counter()))
