"""A tier that is killed or frozen: the others serve, the state says so, recovery is automatic."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from esper.store import KernelStore, StoreState, StoreUnavailable, open_store
from esper.store import postgres as postgres_tier
from esper.topics.codec import sha256_of
from tests.store.servers import (
    ARTIFACT,
    KERNEL_ID,
    LOCATION,
    REDIS_KEY,
    Killable,
    killable_postgres,
    killable_redis,
    redis_of,
)
from tests.waiting import wait_until

OTHER = b"another artifact"
OTHER_LOCATION = f"{KERNEL_ID}/{sha256_of(OTHER)}"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    with killable_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    with killable_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def store(redis: Killable, postgres: Killable) -> Iterator[KernelStore]:
    """Redis before PostgreSQL, both up and with the artifact."""
    with open_store(f"{redis.url},{postgres.url}") as store:
        store.put(KERNEL_ID, ARTIFACT)
        yield store


def up(store: KernelStore) -> dict[str, bool]:
    return {health.tier: health.up for health in store.health()}


def test_without_redis_postgresql_serves_and_redis_comes_back_by_itself(
    store: KernelStore, redis: Killable
) -> None:
    redis.kill()
    try:
        assert store.get(LOCATION) == ARTIFACT
        stored = store.put(KERNEL_ID, OTHER)
        assert stored.durable
        assert stored.failed.keys() == {"redis"}
        assert up(store) == {"redis": False, "postgresql": True}
        assert store.state() is StoreState.DEGRADED
    finally:
        redis.start()
    wait_until(lambda: store.state() is StoreState.HEALTHY, "redis to be used again")
    assert store.refill()
    assert redis_of(redis.url).get(f"esper:kernel:{OTHER_LOCATION}") == OTHER
    assert store.get(OTHER_LOCATION) == OTHER
    assert not store.put(KERNEL_ID, ARTIFACT).degraded


def test_without_postgresql_redis_serves_and_a_put_is_not_durable(
    store: KernelStore, postgres: Killable
) -> None:
    late = b"stored while PostgreSQL is down"
    postgres.kill()
    try:
        assert store.get(LOCATION) == ARTIFACT
        stored = store.put(KERNEL_ID, late)
        assert not stored.durable
        assert stored.failed.keys() == {"postgresql"}
        assert store.get(stored.location) == late
        with pytest.raises(StoreUnavailable):
            store.is_durable(stored.location)
        assert store.state() is StoreState.DEGRADED
    finally:
        postgres.start()
    wait_until(lambda: store.state() is StoreState.HEALTHY, "PostgreSQL to be used again")
    assert store.put(KERNEL_ID, late).durable
    assert store.is_durable(stored.location)


def test_a_connection_that_a_restart_closed_is_replaced(
    store: KernelStore, redis: Killable, postgres: Killable
) -> None:
    for server in (redis, postgres):
        server.kill()
        server.start()
    assert store.get(LOCATION) == ARTIFACT
    assert store.is_durable(LOCATION)
    assert store.state() is StoreState.HEALTHY


def test_without_both_a_put_and_a_get_fail_with_the_reason(
    store: KernelStore, redis: Killable, postgres: Killable
) -> None:
    redis.kill()
    postgres.kill()
    try:
        with pytest.raises(StoreUnavailable, match=r"PostgreSQL at .* does not answer"):
            store.put(KERNEL_ID, OTHER)
        with pytest.raises(StoreUnavailable):
            store.get(LOCATION)
        assert store.state() is StoreState.FAILED
    finally:
        redis.start()
        postgres.start()
    # No pause hides a tier from a read that no other tier can answer.
    assert store.get(LOCATION) == ARTIFACT


@pytest.mark.parametrize("frozen", ["redis", "postgres"])
def test_a_frozen_server_is_given_up(
    frozen: str,
    redis: Killable,
    postgres: Killable,
    store: KernelStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esper.store.redis.ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr("esper.store.postgres._Connection.answer_timeout_s", 0.3)
    server = {"redis": redis, "postgres": postgres}[frozen]
    with open_store(server.url) as impatient:
        assert impatient.get(LOCATION) == ARTIFACT
        with server.frozen(), pytest.raises(StoreUnavailable, match="does not answer"):
            impatient.get(LOCATION)
        assert impatient.get(LOCATION) == ARTIFACT


def test_a_kernel_is_durable_first_if_the_writer_dies_between_two_tiers(
    redis: Killable, postgres: Killable
) -> None:
    data = b"written by a process that died"
    script = textwrap.dedent(
        """
        import os, signal, sys
        from esper.store import open_store
        from esper.store.redis import RedisTier
        RedisTier.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        open_store(sys.argv[1]).put(sys.argv[2], sys.argv[3].encode())
        """
    )
    spec = f"{redis.url},{postgres.url}"
    ended = subprocess.run(
        [sys.executable, "-c", script, spec, KERNEL_ID, data.decode()],
        env=os.environ,
        check=False,
        timeout=240,
    )
    assert ended.returncode == -signal.SIGKILL
    location = f"{KERNEL_ID}/{sha256_of(data)}"
    with open_store(spec) as store:
        assert store.is_durable(location)
        assert store.get(location) == data
    assert redis_of(redis.url).get(f"esper:kernel:{location}") == data


def test_redis_as_durable_tier_keeps_kernels_over_a_kill(redis: Killable) -> None:
    with open_store(redis.url) as store:
        store.put(KERNEL_ID, ARTIFACT)
        redis.kill()
        redis.start()
        assert store.get(LOCATION) == ARTIFACT
    assert redis_of(redis.url).ttl(REDIS_KEY) == -1


def test_a_folder_that_becomes_unwritable_degrades_a_put(tmp_path: Path, redis: Killable) -> None:
    folder = tmp_path / "cache"
    with open_store(f"file:{folder},{redis.url}") as store:
        store.ping()
        folder.rmdir()
        folder.write_text("a file")
        stored = store.put(KERNEL_ID, ARTIFACT)
        assert stored.durable
        assert stored.failed.keys() == {"file"}
        assert store.get(LOCATION) == ARTIFACT


def test_a_postgresql_that_is_shut_down_in_order_ends_under_work_and_beside_an_idle_client(
    postgres: Killable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_tier, "MAX_CONNECTION_S", 1.0)
    with open_store(postgres.url) as busy, open_store(postgres.url) as idle:
        busy.put(KERNEL_ID, ARTIFACT)
        assert idle.get(LOCATION) == ARTIFACT
        postgres.shut_down()

        def works_until_it_ends() -> bool:
            with suppress(StoreUnavailable):
                busy.get(LOCATION)
            return postgres.ended

        try:
            wait_until(works_until_it_ends, "PostgreSQL to end")
        finally:
            postgres.start()
        wait_until(lambda: readable(busy) and readable(idle), "both clients to read again")


def readable(store: KernelStore) -> bool:
    with suppress(StoreUnavailable):
        return store.get(LOCATION) == ARTIFACT
    return False
