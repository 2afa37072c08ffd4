"""The memory of task families, in a real Redis."""

import secrets
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from esper.bandit import FamilyMemory, MemoryUpdate, with_run
from esper.store import MemoryUnreadable, StoreUnavailable, StoreUrlInvalid
from esper.store.run_memory import (
    KEY_PREFIX,
    TIMEOUT_S,
    RedisRunMemory,
)

CONV = "feature_map:4x8x8>8x8x8"
FC = "vector:32>12"
UPDATES = [MemoryUpdate(CONV, "low-rank", 4, 0.7), MemoryUpdate(FC, "dropout-mlp", 2, 0.1)]


@pytest.fixture
def family() -> str:
    return f"family-{secrets.token_hex(4)}"


@pytest.fixture
def memory(redis_url: str) -> RedisRunMemory:
    return RedisRunMemory(redis_url)


def test_an_unknown_family_is_empty(memory: RedisRunMemory, family: str) -> None:
    assert memory.read(family) == FamilyMemory()
    assert family not in memory.families()


def test_another_client_reads_the_folded_run(
    memory: RedisRunMemory, redis_url: str, family: str
) -> None:
    assert memory.fold(family, UPDATES, run_id="one", at_ms=5)
    assert RedisRunMemory(redis_url).read(family) == with_run(
        FamilyMemory(), UPDATES, run_id="one", at_ms=5
    )
    assert family in memory.families()


def test_the_same_run_counts_once(memory: RedisRunMemory, family: str) -> None:
    assert memory.fold(family, UPDATES, run_id="one", at_ms=5)
    before = memory.read(family)
    assert not memory.fold(family, UPDATES, run_id="one", at_ms=6)
    assert memory.read(family) == before


runs = st.lists(
    st.lists(
        st.builds(
            MemoryUpdate,
            st.sampled_from([CONV, FC]),
            st.sampled_from("abc"),
            pulls=st.integers(1, 50),
            mean=st.floats(0, 1),
        ),
        max_size=4,
    ),
    max_size=20,
)


@settings(max_examples=15, deadline=None)
@given(runs)
def test_redis_holds_the_same_memory_as_the_pure_fold(
    redis_url: str, runs_updates: list[list[MemoryUpdate]]
) -> None:
    memory, family = RedisRunMemory(redis_url), f"family-{secrets.token_hex(4)}"
    value = FamilyMemory()
    for number, updates in enumerate(runs_updates):
        memory.fold(family, updates, run_id=f"run-{number}", at_ms=number)
        value = with_run(value, updates, run_id=f"run-{number}", at_ms=number)
    assert memory.read(family) == value


def test_concurrent_writers_lose_no_run_and_count_no_run_twice(redis_url: str, family: str) -> None:
    """Each run is folded twice by separate clients, as after a killed worker."""
    names = [f"run-{number % 20}" for number in range(40)]

    def fold(name: str) -> bool:
        # Each run has its own arm, so that the arm's weight shows how often the run was counted.
        updates = [MemoryUpdate(f"vector:{name.removeprefix('run-')}1>4", "a", 3, 0.5)]
        return RedisRunMemory(redis_url).fold(family, updates, run_id=name, at_ms=1)

    with ThreadPoolExecutor(8) as threads:
        counted = list(threads.map(fold, names))
    assert sum(counted) == 20
    found = RedisRunMemory(redis_url).read(family)
    assert sorted(found.runs) == sorted(set(names))
    assert [arm.weight for arm in found.arms.values()] == [3.0] * 20


def test_a_family_expires_kept_days_after_its_last_run(redis_url: str, family: str) -> None:
    client, memory = Redis.from_url(redis_url), RedisRunMemory(redis_url, kept_days=1)
    memory.fold(family, UPDATES, run_id="one", at_ms=5)
    client.pexpire(KEY_PREFIX + family, 60_000)
    memory.fold(family, UPDATES, run_id="two", at_ms=5)
    assert 86_300_000 < client.pttl(KEY_PREFIX + family) <= 86_400_000


def test_a_forgotten_arm_is_deleted_from_the_hash(
    redis_url: str, memory: RedisRunMemory, family: str
) -> None:
    memory.fold(family, [MemoryUpdate(CONV, "once", 1, 0.5)], run_id="first", at_ms=0)
    for number in range(20):
        memory.fold(family, [MemoryUpdate(CONV, "again", 1, 0.5)], run_id=f"run-{number}", at_ms=0)
    fields = Redis.from_url(redis_url, decode_responses=True).hkeys(KEY_PREFIX + family)
    assert sorted(fields) == [f"{CONV} again", "runs", "schema"]


def test_a_forgotten_family_is_empty(memory: RedisRunMemory, family: str) -> None:
    memory.fold(family, UPDATES, run_id="one", at_ms=5)
    assert memory.forget(family)
    assert not memory.forget(family)
    assert memory.read(family) == FamilyMemory()


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"schema": "2", "runs": "[]"}, "has schema 2, not 1"),
        ({"runs": "[]"}, "has schema none, not 1"),
        ({"schema": "1"}, "is damaged"),
        ({"schema": "1", "runs": "[]", f"{CONV} a": "[1.0]"}, "is damaged"),
        ({"schema": "1", "runs": "[]", f"{CONV} a": "[NaN, 0.5, 0]"}, "is damaged"),
        ({"schema": "1", "runs": "[]", f"{CONV} a": "[1.0, 1.5, 0]"}, "is damaged"),
        ({"schema": "1", "runs": "[]", f"{CONV} a": f"[1.0, 0.5, {10**26}]"}, "is damaged"),
        ({"schema": "1", "runs": "[]", "nameless": "[1.0, 0.5, 0]"}, "is damaged"),
        ({"schema": "1", "runs": "{", f"{CONV} a": "[1.0, 0.5, 0]"}, "is damaged"),
    ],
)
def test_another_schema_is_an_error_with_the_remedy_and_is_not_changed(
    redis_url: str, memory: RedisRunMemory, family: str, fields: dict[str, str], what: str
) -> None:
    client = Redis.from_url(redis_url, decode_responses=True)
    client.hset(KEY_PREFIX + family, mapping=fields)
    with pytest.raises(MemoryUnreadable, match=f"{what}; use .* `esper memory forget {family}"):
        memory.read(family)
    with pytest.raises(MemoryUnreadable, match=what):
        memory.fold(family, UPDATES, run_id="one", at_ms=5)
    assert client.hgetall(KEY_PREFIX + family) == fields
    assert memory.forget(family)


def test_a_key_of_another_type_is_an_error(
    redis_url: str, memory: RedisRunMemory, family: str
) -> None:
    Redis.from_url(redis_url).set(KEY_PREFIX + family, "a string")
    with pytest.raises(MemoryUnreadable, match="is no hash"):
        memory.read(family)
    with pytest.raises(MemoryUnreadable, match="is no hash"):
        memory.fold(family, UPDATES, run_id="one", at_ms=5)


@pytest.fixture
def socket_timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The timeouts that the client set on its sockets."""
    timeouts: list[float | None] = []
    settimeout = socket.socket.settimeout

    def record_timeout(client: socket.socket, timeout_s: float | None) -> None:
        timeouts.append(timeout_s)
        settimeout(client, timeout_s)

    monkeypatch.setattr(socket.socket, "settimeout", record_timeout)
    return timeouts


def test_an_unreachable_server_is_unavailable_after_one_connect_of_a_second_at_most(
    family: str, socket_timeouts: list[float | None]
) -> None:
    assert TIMEOUT_S == 1.0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    memory = RedisRunMemory(f"redis://user:secret@127.0.0.1:{port}/0")
    for call in (
        lambda: memory.read(family),
        lambda: memory.fold(family, UPDATES, run_id="one", at_ms=5),
        lambda: memory.forget(family),
        memory.families,
    ):
        socket_timeouts.clear()
        with pytest.raises(StoreUnavailable, match=str(port)) as failure:
            call()
        assert socket_timeouts == [TIMEOUT_S]
        assert "secret" not in str(failure.value)


def test_a_silent_server_is_waited_for_once(
    family: str, socket_timeouts: list[float | None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        memory = RedisRunMemory(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        with pytest.raises(StoreUnavailable, match="imeout"):
            memory.fold(family, UPDATES, run_id="one", at_ms=5)
        assert socket_timeouts == [TIMEOUT_S, TIMEOUT_S]


def test_a_malformed_url_is_refused() -> None:
    with pytest.raises(StoreUrlInvalid):
        RedisRunMemory("redis://host:port/0")
