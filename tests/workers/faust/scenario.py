"""Worker processes on a real broker, with a topic and a consumer group per test."""

import os
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from esper.workers.faust.guards import ALL, Guard
from tests.waiting import TIMEOUT_S, wait_until

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[3]


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
        """Return the journal so far."""
        text = self._journal.read_text() if self._journal.exists() else ""
        lines = (line.split() for line in text.splitlines())
        return [Step(int(at), what, *map(int, where)) for at, what, *where in lines]

    def numbers(self, what: str) -> list[int]:
        """Return the numbers of the records with this step (`start` or `done`), in order."""
        return [step.number for step in self.steps() if step.what == what]

    def output(self) -> str:
        """Return the output of the process."""
        return self._output.read_text()

    def wait_ready(self) -> "Worker":
        """Wait until the worker has its partitions."""
        wait_until(lambda: not self.running or bool(self.numbers("ready")), "a ready worker")
        return self

    def wait_for(self, step: str, number: int) -> None:
        """Wait until the record was started or done."""
        wait_until(lambda: number in self.numbers(step), f"{step} {number}")

    def wait_for_passes(self, what: str) -> None:
        """Wait until two more passes (`commit` or `fetch`) have ended.

        The second one began after this call: whatever the worker would commit or fetch by then, it
        has committed or fetched.
        """
        before = len(self.numbers(what))
        wait_until(lambda: len(self.numbers(what)) >= before + 2, f"two passes of {what}")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the process: no clean-up."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def exit_code(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the end of the process; return its exit code."""
        return self._process.wait(timeout_s)


class Scenario:
    """The topic, the consumer group and the workers of one test."""

    def __init__(self, bootstrap_servers: str, directory: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.name = f"guards-{uuid4().hex[:8]}"
        self.partitions = 0
        self.workers: list[Worker] = []
        self._directory = directory
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0})

    @property
    def changelog(self) -> str:
        """Return the changelog topic of the workers' table."""
        return f"{self.name}-seen-changelog"

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic and wait for it."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            created.result(TIMEOUT_S)

    def create_topics(self, partitions: int) -> None:
        """Create the topic of the workers and the changelog of their table."""
        self.partitions = partitions
        self.create(self.name, partitions)
        self.create(self.changelog, partitions)

    def publish(self, *values: str, partition: int = 0) -> None:
        """Write the values in order, and wait until the broker has them."""
        for value in values:
            self._producer.produce(self.name, value.encode(), key=b"key", partition=partition)
        self._producer.flush()

    def start(
        self,
        agent: str,
        *,
        guards: Collection[Guard] = ALL,
        ignore_commands: bool = False,
        instance_id: str | None = None,
        slow_seek_s: float = 0.0,
        max_in_flight_bytes: int = 0,
    ) -> Worker:
        """Start a worker of the group."""
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
        words += (["--ignore-commands"] if ignore_commands else []) + ["--guards", *sorted(guards)]
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

    def read_the_rest(self, guards: Collection[Guard] = ALL) -> None:
        """Replace the first worker by one that ignores the commands; wait for a last record each.

        Each partition gets a last record of its own.
        """
        last = [1000 + partition for partition in range(self.partitions)]
        for partition, number in enumerate(last):
            self.publish(str(number), partition=partition)
        agent = self.workers[0].agent
        worker = self.start(agent, guards=guards, ignore_commands=True, instance_id="one")
        for number in last:
            worker.wait_for("done", number)

    def done(self) -> set[int]:
        """Return the numbers of the records that a worker finished."""
        return {number for worker in self.workers for number in worker.numbers("done")}

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the number of records ever written to the partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": self.name})
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, partition))[1])
        finally:
            consumer.close()

    def committed(self, partition: int = 0) -> int:
        """Return the committed offset of the group, -1 without one."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": self.name})
        try:
            found = consumer.committed([TopicPartition(self.name, partition)], TIMEOUT_S)
            return max(int(found[0].offset), -1)
        finally:
            consumer.close()

    def close(self) -> None:
        """Kill all workers."""
        for worker in self.workers:
            worker.kill()
