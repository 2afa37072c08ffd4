"""The users of docs/security.md: what each may do with kernels in a real Redis."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from esper.store import (
    KernelAltered,
    StoreUnavailable,
    collect_garbage,
    open_store,
    tier_facts,
    verify_tiers,
    warm_caches,
)
from tests.store.servers import ARTIFACT, KERNEL_ID, LOCATION, REDIS_KEY, killable_redis

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
PASSWORD = secrets.token_hex(8)


@pytest.fixture(scope="module")
def redis_with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis server with the users of the page."""
    with killable_redis(tmp_path_factory.mktemp("redis")) as server:
        with Redis.from_url(server.url) as admin:
            lines = re.findall(r"^user (\S+) (.*)$", PAGE.read_text(), flags=re.MULTILINE)
            assert {name for name, _ in lines} >= {"esper-compile", "esper-trainer"}
            for name, rules in lines:
                admin.execute_command(
                    "ACL", "SETUSER", name, *rules.replace("PASSWORD", PASSWORD).split()
                )
        yield server.url


@pytest.fixture
def admin(redis_with_users: str) -> Iterator[Redis]:
    with Redis.from_url(redis_with_users) as client:
        client.flushdb()
        yield client


@pytest.fixture
def compile_url(admin: Redis, redis_with_users: str) -> str:
    return redis_with_users.replace("://", f"://esper-compile:{PASSWORD}@")


@pytest.fixture
def trainer_url(admin: Redis, redis_with_users: str) -> str:
    return redis_with_users.replace("://", f"://esper-trainer:{PASSWORD}@")


def test_a_compile_worker_keeps_kernels_in_redis(admin: Redis, compile_url: str) -> None:
    with open_store(compile_url) as store:
        assert not store.put(KERNEL_ID, ARTIFACT).degraded
        assert store.get(LOCATION) == ARTIFACT
        admin.set(REDIS_KEY, b"poison")
        with pytest.raises(KernelAltered):
            store.get(LOCATION)
        assert not admin.exists(REDIS_KEY)


def test_a_compile_worker_uses_redis_as_a_cache(
    admin: Redis, compile_url: str, tmp_path: Path
) -> None:
    with open_store(f"{compile_url}?limit=1MiB,file:{tmp_path}") as store:
        for number in range(12):
            assert not store.put(KERNEL_ID, bytes([number]) * 100_000).degraded
        assert not store.put(KERNEL_ID, ARTIFACT).degraded
        assert store.get(LOCATION) == ARTIFACT
        admin.set(REDIS_KEY, b"poison")
        assert store.get(LOCATION) == ARTIFACT
        assert store.health()[0].counts.failures == 0


def test_an_operator_with_the_rights_of_a_compile_worker_maintains_the_store(
    admin: Redis, compile_url: str, tmp_path: Path
) -> None:
    with open_store(f"{compile_url},file:{tmp_path}") as store:
        store.put(KERNEL_ID, ARTIFACT)
        assert [fact.entries for fact in tier_facts(store)] == [1, 1]
        assert not any(one.bad or one.error for one in verify_tiers(store))
        admin.delete(REDIS_KEY)
        assert warm_caches(store) == {"redis": 1}
        assert store.tiers[0].tier.delete(next(store.tiers[0].tier.entries()).name)
        assert not any(
            one.error for one in collect_garbage(store, (), older_than_s=7200, apply=True)
        )


def test_a_trainer_reads_and_cannot_write(admin: Redis, compile_url: str, trainer_url: str) -> None:
    with open_store(compile_url) as store:
        store.put(KERNEL_ID, ARTIFACT)
    with open_store(f"memory:8MiB,{trainer_url}") as store:
        assert store.get(LOCATION) == ARTIFACT
        with pytest.raises(StoreUnavailable, match="check the user's ACL"):
            store.put(KERNEL_ID, b"forged")
    admin.set(REDIS_KEY, b"poison")
    with open_store(trainer_url) as store:
        with pytest.raises(KernelAltered):
            store.get(LOCATION)
        assert store.health()[0].up
    assert admin.get(REDIS_KEY) == b"poison"


def test_a_cache_that_a_trainer_may_only_read_serves_and_is_not_down(
    admin: Redis, compile_url: str, trainer_url: str, tmp_path: Path
) -> None:
    cached, below = b"in the cache", b"in the file below"
    with open_store(compile_url) as store:
        first = store.put(KERNEL_ID, cached).location
    with open_store(f"file:{tmp_path}") as store:
        second = store.put(KERNEL_ID, below).location
    with open_store(f"{trainer_url},file:{tmp_path}") as store:
        assert store.get(second) == below
        assert store.get(first) == cached
        assert store.get(second) == below
        redis, file = store.health()
        assert redis.up
        assert (redis.counts.hits, redis.counts.failures, file.counts.hits) == (1, 0, 2)
        stored = store.put(KERNEL_ID, ARTIFACT)
        assert stored.durable
        assert "ACL" in stored.failed["redis"]
        assert store.refill(), "nothing is owed to a cache that may not be written"
