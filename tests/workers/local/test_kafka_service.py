"""The Kafka service, tested with librdkafka, a client independent of Esper."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from esper.workers.local import kafka_probe
from esper.workers.local.errors import PortError, StartError
from esper.workers.local.kafka import KafkaService
from esper.workers.local.ports import LOOPBACK, free_port

pytestmark = pytest.mark.heavy

TIMEOUT_S = 60.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[KafkaService]:
    service = KafkaService(tmp_path / "kafka")
    yield service
    service.stop()


def test_the_broker_of_this_session_answers(kafka: KafkaService) -> None:
    assert kafka_probe.is_answering(kafka.bootstrap_servers)
    assert len(_admin(kafka.bootstrap_servers).list_topics(timeout=TIMEOUT_S).brokers) == 1


def test_writing_to_an_unknown_topic_does_not_create_it(kafka: KafkaService) -> None:
    name = f"never-created-{uuid4().hex}"

    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC"):
        _produce(kafka.bootstrap_servers, name, b"lost?")

    assert name not in _admin(kafka.bootstrap_servers).list_topics(timeout=TIMEOUT_S).topics


def test_a_restart_keeps_address_and_records(service: KafkaService, tmp_path: Path) -> None:
    service.start()
    _create_topic(service.bootstrap_servers, "kept")
    _produce(service.bootstrap_servers, "kept", b"before the restart")
    service.stop()

    again = KafkaService(tmp_path / "kafka")
    again.start()
    try:
        assert again.bootstrap_servers == service.bootstrap_servers
        assert _first_value(again.bootstrap_servers, "kept") == b"before the restart"
    finally:
        again.stop()


def test_the_message_size_limit_is_enforced(
    service: KafkaService,
) -> None:
    service.start()
    _create_topic(service.bootstrap_servers, "large")

    _produce(service.bootstrap_servers, "large", bytes(4_000_000))

    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"):
        _produce(service.bootstrap_servers, "large", bytes(4_300_000))


def test_stop_leaves_no_process(service: KafkaService, tmp_path: Path) -> None:
    record = service.start()
    assert _processes_of(tmp_path)

    service.stop()

    assert not _processes_of(tmp_path)
    assert not psutil.pid_exists(record.pid)  # Not even a zombie.
    assert not kafka_probe.is_answering(service.bootstrap_servers)


def test_a_start_that_exceeds_the_timeout_leaves_no_process(
    service: KafkaService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.local.kafka.START_TIMEOUT_S", 0.1)

    with pytest.raises(StartError, match=r"kafka is not ready after 0\.1 s"):
        service.start()

    assert not _processes_of(tmp_path)


def test_a_failed_start_quotes_the_broker_log(service: KafkaService, tmp_path: Path) -> None:
    service.start()
    service.stop()
    meta = tmp_path / "kafka" / "data" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))

    with pytest.raises(StartError) as caught:
        service.start()

    message = str(caught.value)
    assert message.startswith("kafka ended while starting: ")
    assert "node" in message
    assert "full log:" in message
    assert "\n" not in message


def test_a_used_port_raises_with_the_remedy(service: KafkaService, tmp_path: Path) -> None:
    port = int((tmp_path / "kafka" / "controller-port").read_text())
    with socket.create_server((LOOPBACK, port)), pytest.raises(PortError) as caught:
        service.start()

    assert f"kafka needs port {port}" in str(caught.value)
    assert "controller-port" in str(caught.value)


def test_the_probe_returns_false_for_another_server() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        thread = threading.Thread(target=_speak_http_once, args=(server,))
        thread.start()
        assert not kafka_probe.is_answering(f"{LOOPBACK}:{server.getsockname()[1]}")
        thread.join()


def test_the_probe_returns_false_without_a_server() -> None:
    assert not kafka_probe.is_answering(f"{LOOPBACK}:{free_port()}")


def _speak_http_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _admin(bootstrap_servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_servers})


def _create_topic(bootstrap_servers: str, name: str) -> None:
    admin = _admin(bootstrap_servers)  # Keep the client until the result: deleting it cancels.
    created = admin.create_topics([NewTopic(name, 1, 1)])
    created[name].result(TIMEOUT_S)


def _produce(bootstrap_servers: str, topic: str, value: bytes) -> None:
    failures: list[KafkaException] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "message.max.bytes": 10_000_000,  # Above the broker's own limit.
            "topic.metadata.propagation.max.ms": 1_000,
        }
    )
    producer.produce(
        topic,
        value,
        on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
    )
    assert producer.flush(TIMEOUT_S) == 0
    if failures:
        raise failures[0]


def _first_value(bootstrap_servers: str, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": uuid4().hex})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(TIMEOUT_S)
        assert message is not None
        return message.value()
    finally:
        consumer.close()


def _processes_of(directory: Path) -> list[int]:
    """Pids of processes that were started on a folder, by their command lines."""
    return [
        found.pid
        for found in psutil.process_iter(["cmdline"])
        if any(str(directory) in word for word in found.info["cmdline"] or [])
    ]
