"""The Redis tier, on a real server: as the durable tier, and as a cache with limits."""

import socket
from collections.abc import Callable

import pytest

from esper.store import KernelAltered, KernelMissing, StoreUnavailable, open_store
from esper.store.naming import KernelName, name_of
from esper.store.redis import CacheLimits, RedisTier
from tests.store.servers import ARTIFACT, KERNEL_ID, LOCATION, REDIS_KEY, redis_of

OVERLONG = (32 << 20) + 100


def test_another_client_gets_the_stored_bytes(redis_url: str) -> None:
    location = open_store(redis_url).put(KERNEL_ID, ARTIFACT).location
    assert open_store(redis_url).get(location) == ARTIFACT
    assert location == LOCATION


def test_an_unused_location_is_missing(empty_redis: str) -> None:
    store = open_store(empty_redis)
    store.ping()
    with pytest.raises(KernelMissing):
        store.get(LOCATION)
    with pytest.raises(KernelMissing):
        store.get("another-key")


def test_an_unreachable_server_is_unavailable_and_its_password_is_not_shown() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = open_store(f"redis://user:secret@127.0.0.1:{port}/0")
    calls: list[Callable[[], object]] = [
        store.ping,
        lambda: store.put(KERNEL_ID, ARTIFACT),
        lambda: store.get(LOCATION),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=str(port)) as failure:
            call()
        assert "secret" not in str(failure.value)


@pytest.mark.parametrize("poison", [b"other bytes", ARTIFACT[:-1], ARTIFACT + b"x"])
def test_an_altered_entry_of_the_durable_tier_is_renamed(empty_redis: str, poison: bytes) -> None:
    store, client = open_store(empty_redis), redis_of(empty_redis)
    store.put(KERNEL_ID, ARTIFACT)
    client.set(REDIS_KEY, poison)
    with pytest.raises(KernelAltered):
        store.get(LOCATION)
    assert client.get(f"esper:kernel-quarantine:{LOCATION}") == poison
    assert not client.exists(REDIS_KEY)


def test_an_overlong_entry_is_not_read_to_its_end(empty_redis: str) -> None:
    tier, client = RedisTier(empty_redis), redis_of(empty_redis)
    client.setrange(REDIS_KEY, OVERLONG - 1, b"x")
    store = open_store(empty_redis)
    (name,) = (entry.name for entry in tier.entries())
    read = tier.read(name)
    assert read is not None and len(read) == (32 << 20) + 1
    with pytest.raises(KernelAltered):
        store.get(LOCATION)
    assert client.strlen(f"esper:kernel-quarantine:{LOCATION}") == OVERLONG


def test_an_entry_of_another_type_is_quarantined(empty_redis: str) -> None:
    store, client = open_store(empty_redis), redis_of(empty_redis)
    client.rpush(REDIS_KEY, "a list")
    with pytest.raises(KernelAltered):
        store.get(LOCATION)
    assert not client.exists(REDIS_KEY)


def test_an_entry_that_was_replaced_since_it_was_read_is_not_quarantined(empty_redis: str) -> None:
    tier = RedisTier(empty_redis)
    open_store(empty_redis).put(KERNEL_ID, ARTIFACT)
    (entry,) = tier.entries()
    tier.quarantine(entry.name, b"what was read before")
    assert tier.read(entry.name) == ARTIFACT


def test_a_durable_entry_has_no_expiry(empty_redis: str) -> None:
    open_store(empty_redis).put(KERNEL_ID, ARTIFACT)
    assert redis_of(empty_redis).ttl(REDIS_KEY) == -1


def test_an_entry_of_a_cache_expires_after_its_last_use(empty_redis: str) -> None:
    tier, client = RedisTier(empty_redis, CacheLimits(600, 1 << 30)), redis_of(empty_redis)
    (name,) = named(b"one")
    tier.write(name, b"one")
    key = f"esper:kernel:{name}"
    assert 590 < client.ttl(key) <= 600
    client.expire(key, 10)
    assert tier.read(name) == b"one"
    assert 590 < client.ttl(key) <= 600


def test_a_full_cache_drops_its_least_recently_used_entries(empty_redis: str) -> None:
    tier = RedisTier(empty_redis, CacheLimits(600, 300))
    names = named(b"a" * 100, b"b" * 100, b"c" * 100, b"d" * 100)
    for name, letter in zip(names[:3], b"abc", strict=True):
        tier.write(name, bytes([letter]) * 100)
    assert tier.read(names[0]) is not None
    tier.write(names[3], b"d" * 100)
    assert [tier.read(name) is not None for name in names] == [True, False, True, True]
    assert redis_of(empty_redis).hget("esper:kernel-sizes", "total") == b"300"


def test_an_artifact_larger_than_a_cache_is_not_kept_and_drops_nothing(empty_redis: str) -> None:
    tier = RedisTier(empty_redis, CacheLimits(600, 300))
    small, large = named(b"a" * 100, b"b" * 301)
    tier.write(small, b"a" * 100)
    tier.write(large, b"b" * 301)
    assert tier.read(large) is None
    assert tier.read(small) is not None


def test_sizes_of_deleted_and_rewritten_entries_are_not_counted_twice(empty_redis: str) -> None:
    tier, client = RedisTier(empty_redis, CacheLimits(600, 1000)), redis_of(empty_redis)
    one, two = named(b"a" * 100, b"b" * 100)
    for _ in range(3):
        tier.write(one, b"a" * 100)
    tier.write(two, b"b" * 100)
    tier.delete(two)
    assert client.hget("esper:kernel-sizes", "total") == b"100"


def named(*contents: bytes) -> list[KernelName]:

    return [name_of(KERNEL_ID, content) for content in contents]
