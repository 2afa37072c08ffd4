"""The local stack: started and stopped by one call each, completely or not at all."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AdminClient

from esper.store import open_store
from esper.topics.catalog import topic_specs
from esper.workers.local import process
from esper.workers.local.errors import NotRunningError, PortError, StateError
from esper.workers.local.ports import LOOPBACK, free_port
from esper.workers.local.stack import LocalStack
from esper.workers.local.state import StackState
from esper.workers.local.status import Health
from tests.waiting import TIMEOUT_S, wait_until

NO_ADDRESSES: dict[str, str] = {}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[LocalStack]:
    """Return a running stack without workers, for this module."""
    stack = LocalStack(home, NO_ADDRESSES)
    stack.start(_silent, workers=False)
    yield stack
    stack.stop()


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[LocalStack]:
    """Return a stack in `tmp_path`; all that is started there is stopped after the test."""
    stack = LocalStack(tmp_path, NO_ADDRESSES)
    yield stack
    stack.stop()


def test_the_state_file_has_addresses_keys_and_processes(stack: LocalStack, home: Path) -> None:
    written = orjson.loads((home / "stack.json").read_bytes())

    assert written.keys() == {
        "kafka_bootstrap_servers",
        "redis_url",
        "kernel_store",
        "postgres_url",
        "signing_key_file",
        "trusted_key_file",
        "processes",
        "restarts",
    }
    assert written["kernel_store"] == written["redis_url"]
    assert [part["name"] for part in written["processes"]] == ["redis", "kafka"]


def test_every_topic_of_the_catalog_exists(stack: LocalStack, home: Path) -> None:
    admin = AdminClient({"bootstrap.servers": _state(home).kafka_bootstrap_servers})

    found = admin.list_topics(timeout=TIMEOUT_S).topics

    assert {name: len(topic.partitions) for name, topic in found.items()} == {
        spec.name: spec.partitions for spec in topic_specs()
    }


def test_only_the_owner_can_read_the_private_key(stack: LocalStack, home: Path) -> None:
    assert stat.S_IMODE(_state(home).signing_key_file.stat().st_mode) == 0o600


def test_status_shows_running_and_stopped_services(stack: LocalStack) -> None:
    assert {part.name: part.health for part in stack.status()} == {
        "kafka": Health.RUNNING,
        "redis": Health.RUNNING,
        "compile": Health.STOPPED,
        "bandit": Health.STOPPED,
    }


def test_a_second_start_keeps_the_running_services(stack: LocalStack, home: Path) -> None:
    before = _state(home)
    messages: list[str] = []

    LocalStack(home, NO_ADDRESSES).start(messages.append, workers=False)

    assert _state(home) == before
    assert "kafka: already running" in messages


def test_a_killed_service_is_reported_and_restarts_at_its_address(
    stack: LocalStack, home: Path
) -> None:
    before = _state(home)
    stack.kill("redis")
    assert _health(stack, "redis") is Health.STOPPED

    stack.start(_silent, workers=False)

    after = _state(home)
    assert _health(stack, "redis") is Health.RUNNING
    assert after.redis_url == before.redis_url
    assert after.process("kafka") == before.process("kafka")
    assert after.process("redis") != before.process("redis")


def test_a_frozen_service_is_reported_as_not_answering(stack: LocalStack, home: Path) -> None:
    redis = _state(home).require_process("redis")
    subprocess.run(["kill", "-STOP", str(redis.pid)], check=True)
    try:
        assert _health(stack, "redis") is Health.NOT_ANSWERING
    finally:
        subprocess.run(["kill", "-CONT", str(redis.pid)], check=True)


@pytest.mark.heavy
def test_stop_ends_every_process_and_keeps_keys_and_addresses(
    own_stack: LocalStack, tmp_path: Path
) -> None:
    state = own_stack.start(_silent, workers=False)
    key = state.signing_key_file.read_bytes()

    own_stack.stop()

    assert not any(process.is_alive(record) for record in state.processes)
    assert not (tmp_path / "stack.json").exists()
    again = own_stack.start(_silent, workers=False)
    assert again.signing_key_file.read_bytes() == key
    assert again.kafka_bootstrap_servers == state.kafka_bootstrap_servers


def test_a_failed_start_stops_the_services_that_it_started(
    own_stack: LocalStack, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "port").write_text(f"{port}\n")
    seen: list[StackState] = []

    def remember(message: str) -> None:
        if message == "kafka: starting":  # Redis runs and is in the state file.
            seen.append(_state(tmp_path))

    with socket.create_server((LOOPBACK, port)), pytest.raises(PortError, match=str(port)):
        own_stack.start(remember, workers=False)

    redis = seen[0].require_process("redis")
    assert not process.is_alive(redis)
    assert not (tmp_path / "stack.json").exists()


def test_services_named_in_the_environment_are_used_and_not_started(
    stack: LocalStack, home: Path, own_stack: LocalStack, tmp_path: Path
) -> None:
    running = _state(home)
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": running.kafka_bootstrap_servers,
        "ESPER_REDIS_URL": running.redis_url,
    }
    guest = LocalStack(tmp_path, environment)

    state = guest.start(_silent, workers=False)

    assert state.processes == ()
    assert state.kafka_bootstrap_servers == running.kafka_bootstrap_servers
    assert [part.health for part in guest.status()[:2]] == [Health.RUNNING, Health.RUNNING]
    guest.stop()
    assert _health(stack, "kafka") is Health.RUNNING


def test_with_postgres_it_keeps_the_kernels_and_redis_is_a_cache(
    stack: LocalStack, home: Path, own_stack: LocalStack, tmp_path: Path
) -> None:
    running = _state(home)
    guest = LocalStack(
        tmp_path,
        {
            "KAFKA_BOOTSTRAP_SERVERS": running.kafka_bootstrap_servers,
            "ESPER_REDIS_URL": running.redis_url,
        },
    )

    state = guest.start(_silent, workers=False, postgres=True)

    assert [part.name for part in state.processes] == ["postgres"]
    assert _health(guest, "postgres") is Health.RUNNING
    with open_store(state.kernel_store) as store:
        store.ping()
        assert [tier.tier for tier in store.health()] == ["memory", "redis", "postgresql"]
    # A later start without the option keeps it: the kernels are there.
    assert guest.start(_silent, workers=False).kernel_store == state.kernel_store
    guest.stop()
    messages: list[str] = []
    assert guest.start(messages.append, workers=False).postgres_url is None
    assert "postgres: not started, though it has data: add --with postgres" in messages


def test_postgres_named_in_the_environment_is_used_and_not_started(
    stack: LocalStack, home: Path, tmp_path: Path, postgres_url: str
) -> None:
    running = _state(home)
    guest = LocalStack(
        tmp_path,
        {
            "KAFKA_BOOTSTRAP_SERVERS": running.kafka_bootstrap_servers,
            "ESPER_REDIS_URL": running.redis_url,
            "ESPER_POSTGRES_URL": postgres_url,
        },
    )

    state = guest.start(_silent, workers=False)

    assert state.processes == ()
    assert state.kernel_store.endswith(f",{running.redis_url},{postgres_url}")
    assert _health(guest, "postgres") is Health.RUNNING
    guest.stop()


@pytest.mark.heavy
def test_with_die_with_parent_services_die_with_a_killed_starter(
    own_stack: LocalStack, tmp_path: Path
) -> None:
    script = (
        "from pathlib import Path\n"
        "from esper.workers.local.stack import LocalStack\n"
        f"stack = LocalStack(Path({str(tmp_path)!r}), {{}})\n"
        "stack.start(lambda _: None, workers=False, die_with_parent=True)\n"
        "print('up', flush=True)\n"
        "input()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        records = _state(tmp_path).processes
        starter.kill()
        starter.wait()

    assert records
    for record in records:
        wait_until(lambda r=record: not process.is_alive(r), f"the end of {record.name}")


def test_a_service_that_was_not_started_cannot_be_restarted(stack: LocalStack) -> None:
    with pytest.raises(NotRunningError, match="has not started 'compile'"):
        stack.restart("compile")


def test_a_damaged_state_file_raises_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"processes": 1}')

    with pytest.raises(StateError, match=r"stack\.json is damaged"):
        LocalStack(tmp_path, NO_ADDRESSES).status()


def _silent(message: str) -> None:
    """Ignore a progress message."""


def _state(home: Path) -> StackState:
    return StackState.model_validate_json((home / "stack.json").read_bytes())


def _health(stack: LocalStack, name: str) -> Health:
    return next(part.health for part in stack.status() if part.name == name)
