"""Simulated compile workers on one broker: requests to them, and their compilations counted."""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from benchmarks.result import BenchmarkError
from benchmarks.simulated_compile import Line, read_journal
from esper.blueprint import request_for
from esper.signing import create_keys
from esper.topics.bus import Bus, Record, StartOffset, create_topics
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    KERNEL_READY,
    KERNEL_REQUESTED,
    TRAINING_RUN,
)
from esper.topics.codec import decode, encode
from esper.topics.models import (
    Blueprint,
    CompileStatus,
    KernelCompiled,
    KernelRequested,
    Node,
    SiteKind,
    SiteSignature,
    TrainingRun,
)
from esper.workers.local import CAN_DIE_WITH_PARENT, ProcessRecord, process
from esper.workers.local.ports import free_port
from esper.workers.local.worker import is_healthy

SITE: Final = SiteSignature(kind=SiteKind.VECTOR, x=(4,), h=(4,))
START_TIMEOUT_S: Final = 120.0
TIMEOUT_S: Final = 240.0
POLL_S: Final = 0.02


def blueprint(name: str, summary: str) -> Blueprint:
    """Return a blueprint whose simulated compilation does what `summary` says."""
    node = Node(id="same", op="linear", inputs=("h",), args={"out": "D"})
    return Blueprint(
        blueprint_id=name, kind=SiteKind.VECTOR, summary=summary, nodes=(node,), output="same"
    )


def requests(count: int, summary: str, prefix: str = "kernel") -> list[KernelRequested]:
    """Return requests of distinct kernels."""
    return [request_for(blueprint(f"{prefix}-{n}", summary), SITE) for n in range(count)]


class Fleet:
    """Any number of simulated compile workers in one group; their store and journal are shared."""

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        """Connect; `folder` takes the workers' files."""
        self.folder = folder
        self.workers: dict[int, ProcessRecord] = {}
        self.announced: Counter[str] = Counter()
        self.attempts: list[KernelCompiled] = []
        self.announced_at: dict[str, float] = {}
        self.withdrawn: set[str] = set()
        self._servers = bootstrap_servers
        self._lock = threading.Lock()
        self._started = 0
        create_topics(bootstrap_servers)
        self._key = create_keys(folder / "keys").private
        self.bus = Bus.connect(bootstrap_servers, source="/esper/test")
        self.bus.consume(KERNEL_READY.name, self._on_ready, start=StartOffset.LATEST)
        self.bus.consume(KERNEL_COMPILED.name, self._on_compiled, start=StartOffset.LATEST)

    def start(self, count: int = 1, **environment: str) -> list[ProcessRecord]:
        """Start workers and wait until each has its partitions."""
        started = [self._spawn(environment) for _ in range(count)]
        for worker in started:
            process.wait_until_ready(worker, partial(is_healthy, worker), START_TIMEOUT_S)
        return started

    def kill(self, worker: ProcessRecord) -> None:
        """Kill a worker."""
        process.kill(worker)

    def stop(self, worker: ProcessRecord) -> None:
        """Stop a worker in order."""
        process.stop(worker, grace_s=60.0)

    def metric(self, worker: ProcessRecord, name: str) -> float:
        """Return the value of a metric without labels."""
        try:
            with urlopen(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
        except (OSError, HTTPException) as error:
            raise BenchmarkError(f"{worker.name} does not answer: {error}") from error
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def request(self, wanted: Iterable[KernelRequested]) -> None:
        """Publish requests; return when the broker has them."""
        for sent in [self.bus.publish(KERNEL_REQUESTED, request) for request in wanted]:
            sent.result(TIMEOUT_S)

    def publish(self, *blueprints: Blueprint) -> None:
        """Publish blueprints without headers; return when the broker has them."""
        values = [(one.blueprint_id.encode(), encode(one)) for one in blueprints]
        for sent in [self.bus.send(BLUEPRINT_SUBMITTED.name, *value) for value in values]:
            sent.result(TIMEOUT_S)

    def announce(self, run: TrainingRun) -> None:
        """Publish a run; return when the broker has it."""
        self.bus.publish(TRAINING_RUN, run).result(TIMEOUT_S)

    def wait_announced(
        self, wanted: Iterable[KernelRequested], times: int = 1, enough: int | None = None
    ) -> None:
        """Wait until all kernels, or `enough` of them, were announced this many times.

        Raises:
            BenchmarkError: that did not happen in time.
        """
        ids = [request.kernel_id for request in wanted]
        enough = len(ids) if enough is None else enough
        deadline = time.monotonic() + TIMEOUT_S
        while self._count(ids, times) < enough:
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{self._count(ids, times)} of {enough} kernels were announced {times} times "
                    f"within {TIMEOUT_S:g} s; see the logs in {self.folder}"
                )
            time.sleep(POLL_S)

    def compilations(self) -> Counter[str]:
        """Return how many compile processes began each kernel, by kernel id."""
        return Counter(line.kernel_id for line in self.journal() if line.what == "start")

    def journal(self) -> list[Line]:
        """Return the journal of the compile processes."""
        return read_journal(self.folder)

    def rejected(self, kernel_id: str) -> list[KernelCompiled]:
        """Return the rejections of a kernel so far."""
        return [
            event
            for event in list(self.attempts)
            if event.kernel_id == kernel_id and event.status is CompileStatus.REJECTED
        ]

    def close(self) -> None:
        """Stop everything."""
        for worker in self.workers.values():
            process.kill(worker)
        self.bus.close()

    def _spawn(self, environment: dict[str, str]) -> ProcessRecord:
        self._started += 1
        port = free_port()
        ours = {
            "ESPER_HOME": str(self.folder),
            "KAFKA_BOOTSTRAP_SERVERS": self._servers,
            "ESPER_SIGNING_KEY_FILE": str(self._key),
            "ESPER_METRICS_PORT": str(port),
            # The shortest that a broker allows: a killed worker's partitions are taken over soon.
            "ESPER_SESSION_TIMEOUT_S": "6",
            "TMPDIR": str(self.folder),
        }
        name = f"compile-{self._started}"
        record = process.spawn(
            name,
            [sys.executable, "-m", "benchmarks.simulated_compile"],
            log=self.folder / f"{name}.log",
            environment=os.environ | ours | environment,
            die_with_parent=CAN_DIE_WITH_PARENT,
        ).model_copy(update={"metrics_port": port})
        self.workers[record.pid] = record
        return record

    def _count(self, ids: list[str], times: int) -> int:
        with self._lock:
            return sum(self.announced[kernel_id] >= times for kernel_id in ids)

    def _on_ready(self, record: Record) -> None:
        kernel_id = (record.key or b"").decode()
        if record.value is None:
            self.withdrawn.add(kernel_id)
            return
        with self._lock:
            self.announced[kernel_id] += 1
            self.announced_at.setdefault(kernel_id, time.perf_counter())

    def _on_compiled(self, record: Record) -> None:
        self.attempts.append(decode(KernelCompiled, record.value))


@contextmanager
def fleet(bootstrap_servers: str, folder: Path) -> Iterator[Fleet]:
    """Run a fleet within the block."""
    opened = Fleet(bootstrap_servers, folder)
    try:
        yield opened
    finally:
        opened.close()
