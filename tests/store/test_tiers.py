"""Tiers together: write-through, read-through, promotion, quarantine, single flight."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.store import (
    KernelAltered,
    KernelMissing,
    KernelStore,
    StoreState,
    StoreUnavailable,
    open_store,
)
from esper.store.file import FileTier
from esper.store.memory import MemoryTier
from esper.store.naming import KernelName, name_of
from tests.store.servers import (
    ARTIFACT,
    KERNEL_ID,
    LOCATION,
    REDIS_KEY,
    poison_postgres,
    redis_of,
    stored_everywhere,
)


@pytest.fixture
def full(empty_redis: str, empty_postgres: str) -> Iterator[KernelStore]:
    """Memory, Redis and PostgreSQL."""
    with open_store(f"memory:8MiB,{empty_redis},{empty_postgres}") as store:
        yield store


def counts(store: KernelStore, tier: str) -> dict[str, int]:
    found = next(health for health in store.health() if health.tier == tier)
    return {name: getattr(found.counts, name) for name in found.counts.__slots__}


def test_a_put_reaches_every_tier(full: KernelStore, empty_redis: str, empty_postgres: str) -> None:
    stored = full.put(KERNEL_ID, ARTIFACT)
    assert stored.durable
    assert not stored.degraded
    for url in (empty_redis, empty_postgres):
        assert open_store(url).get(LOCATION) == ARTIFACT


def test_a_read_is_promoted_to_the_tiers_above(
    full: KernelStore, empty_redis: str, empty_postgres: str
) -> None:
    stored_everywhere(empty_postgres)
    assert full.get(LOCATION) == ARTIFACT
    assert redis_of(empty_redis).get(REDIS_KEY) == ARTIFACT
    assert full.get(LOCATION) == ARTIFACT
    assert counts(full, "memory")["hits"] == 1
    assert counts(full, "postgresql")["hits"] == 1


@pytest.mark.parametrize(
    "poison", [b"other bytes", ARTIFACT[:-1], bytes((32 << 20) + 1)], ids=["other", "cut", "long"]
)
def test_a_poisoned_entry_of_redis_is_replaced_from_postgresql(
    full: KernelStore, empty_redis: str, empty_postgres: str, poison: bytes
) -> None:
    stored_everywhere(empty_postgres)
    redis_of(empty_redis).set(REDIS_KEY, poison)
    assert full.get(LOCATION) == ARTIFACT
    assert redis_of(empty_redis).get(REDIS_KEY) == ARTIFACT
    assert counts(full, "redis")["quarantined"] == 1


def test_a_kernel_altered_in_every_tier_is_never_returned(
    full: KernelStore, empty_redis: str, empty_postgres: str
) -> None:
    stored_everywhere(empty_postgres)
    redis_of(empty_redis).set(REDIS_KEY, b"other")
    poison_postgres(empty_postgres, b"others")
    with pytest.raises(KernelAltered, match=r"redis has 5 bytes .* postgresql has 6 bytes"):
        full.get(LOCATION)


def test_what_the_durable_tier_lost_is_not_durable(full: KernelStore, empty_postgres: str) -> None:
    assert full.is_durable(full.put(KERNEL_ID, ARTIFACT).location)
    poison_postgres(empty_postgres, b"other")
    assert not full.is_durable(LOCATION)
    assert full.get(LOCATION) == ARTIFACT


class SlowFile(FileTier):
    """A file tier whose reads wait until they may go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads = 0
        self.may_go_on = threading.Event()
        self.entered = threading.Event()

    def read(self, name: KernelName) -> bytes | None:
        self.reads += 1
        self.entered.set()
        assert self.may_go_on.wait(60)
        return super().read(name)


def test_threads_that_ask_for_one_kernel_share_one_read(tmp_path: Path) -> None:
    slow = SlowFile(tmp_path)
    KernelStore([slow]).put(KERNEL_ID, ARTIFACT)
    store = KernelStore([MemoryTier(8 << 20), slow])
    waiting = threading.Barrier(9)

    def get(_: int) -> bytes:
        waiting.wait(60)
        return store.get(LOCATION)

    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(get, number) for number in range(8)]
        waiting.wait(60)
        assert slow.entered.wait(60)
        slow.may_go_on.set()
        assert {result.result(60) for result in results} == {ARTIFACT}
    assert slow.reads == 1


def test_threads_that_share_a_read_share_its_error(tmp_path: Path) -> None:
    slow = SlowFile(tmp_path)
    store = KernelStore([slow])
    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(store.get, LOCATION) for _ in range(4)]
        assert slow.entered.wait(60)
        slow.may_go_on.set()
        for result in results:
            with pytest.raises(KernelMissing):
                result.result(60)
    store.put(KERNEL_ID, ARTIFACT)
    assert store.get(LOCATION) == ARTIFACT


def test_memory_drops_the_least_recently_used_beyond_its_limit() -> None:
    tier = MemoryTier(300)
    names = [name_of(KERNEL_ID, bytes([letter]) * 100) for letter in b"abcd"]
    for name, letter in zip(names[:3], b"abc", strict=True):
        tier.write(name, bytes([letter]) * 100)
    assert tier.read(names[0]) is not None
    tier.write(names[3], b"d" * 100)
    assert [tier.read(name) is not None for name in names] == [True, False, True, True]
    tier.write(name_of(KERNEL_ID, b"e" * 301), b"e" * 301)
    assert len(list(tier.entries())) == 3


def test_memory_alone_is_no_place_for_a_kernel(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    store = open_store(f"memory:8MiB,file:{tmp_path / 'taken'}")
    with pytest.raises(StoreUnavailable, match="taken"):
        store.put(KERNEL_ID, ARTIFACT)
    assert store.state() is StoreState.FAILED
