"""Workers as processes on a real broker, with a topic and a consumer group for each test."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from esper.workers.faust.guards import ALL, Guard

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[3]
DEADLINE_S = 40.0


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll until it holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.02)


class Step(NamedTuple):
    """One line of a journal."""

    at_ns: int
    what: str
    number: int = -1
    partition: int = -1
    offset: int = -1


class Worker:
    """A worker process and its journal."""

    def __init__(
        self, agent: str, process: subprocess.Popen[bytes], journal: Path, output: Path
    ) -> None:
        self.agent = agent
        self._process = process
        self._journal = journal
        self._output = output

    def steps(self) -> list[Step]:
        """The journal so far."""
        text = self._journal.read_text() if self._journal.exists() else ""
        lines = (line.split() for line in text.splitlines())
        return [Step(int(at), what, *map(int, where)) for at, what, *where in lines]

    def numbers(self, what: str) -> list[int]:
        """The numbers of the records that were begun (`start`) or finished (`done`), in order."""
        return [step.number for step in self.steps() if step.what == what]

    def output(self) -> str:
        """What the process printed."""
        return self._output.read_text()

    def wait_ready(self) -> "Worker":
        """Wait until it owns partitions and reads."""
        wait_until(lambda: not self.running or bool(self.numbers("ready")), "readiness")
        return self

    def wait_for(self, step: str, number: int) -> None:
        """Wait until the record was started or done."""
        wait_until(lambda: number in self.numbers(step), f"{step} {number}")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it as the machine would: no clean-up."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.send_signal(signal.SIGTERM)

    def exit_code(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end."""
        return self._process.wait(timeout_s)


class Scenario:
    """One topic, one consumer group, and the workers of a test."""

    def __init__(self, bootstrap_servers: str, directory: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.name = f"guards-{uuid4().hex[:8]}"
        self.partitions = 0
        self.workers: list[Worker] = []
        self._directory = directory
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0})

    @property
    def changelog(self) -> str:
        """The changelog of the worker's table."""
        return f"{self.name}-seen-changelog"

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic and wait until it is there."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            created.result(DEADLINE_S)

    def create_topics(self, partitions: int) -> None:
        """Create the topic that the workers read and the changelog of their table."""
        self.partitions = partitions
        self.create(self.name, partitions)
        self.create(self.changelog, partitions)

    def publish(self, *values: str, partition: int = 0) -> None:
        """Write the values, in order, and wait until the broker has them."""
        for value in values:
            self._producer.produce(self.name, value.encode(), key=b"key", partition=partition)
        self._producer.flush()

    def start(
        self,
        agent: str,
        *,
        guards: Collection[Guard] = ALL,
        tame: bool = False,
        instance_id: str | None = None,
        slow_seek_s: float = 0.0,
        max_in_flight_bytes: int = 0,
    ) -> Worker:
        """Start one more worker of the group."""
        index = len(self.workers)
        journal, output = self._directory / f"journal-{index}", self._directory / f"output-{index}"
        arguments = {
            "--bootstrap-servers": self.bootstrap_servers,
            "--app-id": self.name,
            "--topic": self.name,
            "--agent": agent,
            "--partitions": str(self.partitions),
            "--journal": str(journal),
            "--data-dir": str(self._directory / f"data-{index}"),
            "--slow-seek": str(slow_seek_s),
            "--max-in-flight-bytes": str(max_in_flight_bytes),
        }
        if instance_id:
            arguments["--instance-id"] = instance_id
        words = [word for pair in arguments.items() for word in pair]
        words += (["--tame"] if tame else []) + ["--guards", *sorted(guards)]
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, WORKER, *words],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        worker = Worker(agent, process, journal, output)
        self.workers.append(worker)
        return worker

    def take_what_is_left(self, guards: Collection[Guard] = ALL) -> None:
        """Let a tame worker take the place of the first, up to a last record published now."""
        self.publish("1000")
        agent = self.workers[0].agent
        self.start(agent, guards=guards, tame=True, instance_id="one").wait_for("done", 1000)

    def let_commits_settle(self) -> None:
        """Wait for five commit intervals: what Faust means to commit it has committed then."""
        time.sleep(1.0)

    def done(self) -> set[int]:
        """The numbers of the records that some worker finished."""
        return {number for worker in self.workers for number in worker.numbers("done")}

    def end_offset(self, topic: str, partition: int) -> int:
        """How many records were ever written to the partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": self.name})
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, partition))[1])
        finally:
            consumer.close()

    def committed(self, partition: int = 0) -> int:
        """The committed offset of the group, or -1 for none."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": self.name})
        try:
            found = consumer.committed([TopicPartition(self.name, partition)], DEADLINE_S)
            return max(int(found[0].offset), -1)
        finally:
            consumer.close()

    def close(self) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            worker.kill()
