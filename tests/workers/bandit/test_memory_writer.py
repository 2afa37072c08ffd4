"""The memory writer of the bandit worker, with a real Redis, a silent one and none."""

import asyncio
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis import Redis
from structlog.testing import capture_logs

from esper.bandit import FamilyMemory
from esper.orchestrator import FoldState
from esper.settings import Settings
from esper.store import RedisRunMemory
from esper.store.run_memory import KEY_PREFIX
from esper.workers.bandit.memory_writer import MemoryWriter
from esper.workers.local.process import CAN_DIE_WITH_PARENT
from esper.workers.local.redis import RedisService
from tests.orchestrator.trained_memory import trained_run
from tests.waiting import TIMEOUT_S


@pytest.fixture
def family() -> str:
    return f"family-{secrets.token_hex(4)}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def closed(family: str | None, *names: str) -> list[FoldState]:
    return [trained_run(family, run_id=name).fold_state for name in names]


def writer_for(url: str | None) -> MemoryWriter:
    return MemoryWriter(Settings(ESPER_REDIS_URL=url))


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("esper_runs_remembered_total", {"outcome": outcome}) or 0.0


def test_a_closed_run_is_added_once(redis_url: str, family: str) -> None:
    kept, known = counted("kept"), counted("known")
    (run,) = closed(family, "one")
    asyncio.run(writer_for(redis_url).keep([run]))
    found = RedisRunMemory(redis_url).read(family)
    # As after a crash: another worker folds the run again.
    asyncio.run(writer_for(redis_url).keep([run]))
    assert found.runs == ("one",)
    assert found.arms
    assert RedisRunMemory(redis_url).read(family) == found
    assert (counted("kept"), counted("known")) == (kept + 1, known + 1)


def test_a_run_without_memory_is_not_added(redis_url: str) -> None:
    families, missed = RedisRunMemory(redis_url).families(), counted("missed")
    asyncio.run(writer_for(redis_url).keep(closed(None, "one")))
    assert RedisRunMemory(redis_url).families() == families
    assert counted("missed") == missed


@pytest.mark.parametrize("url", [None, "redis://host:port/0", "redis://127.0.0.1:1/0"])
def test_without_redis_the_writer_warns_once_and_counts_every_run(
    url: str | None, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.bandit.memory_writer.PAUSE_S", 0.0)
    missed = counted("missed")
    with capture_logs() as lines:
        writer = writer_for(url)
        for run in closed(family, "one", "two", "three"):
            asyncio.run(writer.keep([run]))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "runs are not added to memory"
    ]
    assert [line["repair"] for line in lines if line["event"] == "run missed"] == [
        f"esper memory learn {name}" for name in ("one", "two", "three")
    ]
    assert counted("missed") == missed + 3


class BlockedFold:
    """Replaces `RedisRunMemory.fold` by a call that blocks its thread until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self._released = threading.Event(), threading.Event()
        self.returned_released: bool | None = None
        monkeypatch.setattr(RedisRunMemory, "fold", self._fold)

    def release(self) -> None:
        self._released.set()

    def _fold(self, *_: Any, **__: Any) -> bool:
        self.started.set()
        self.returned_released = self._released.wait(TIMEOUT_S)
        return True


def test_a_silent_redis_is_tried_once_and_not_again_before_the_pause_is_over(
    silent: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.bandit.memory_writer.PAUSE_S", 3600.0)
    calls: list[str] = []
    fold = RedisRunMemory.fold

    def counted_fold(self: RedisRunMemory, *args: Any, **kwargs: Any) -> bool:
        calls.append(kwargs["run_id"])
        return fold(self, *args, **kwargs)

    monkeypatch.setattr(RedisRunMemory, "fold", counted_fold)
    writer, missed = writer_for(silent), counted("missed")
    runs = closed(family, "one", "two", "three", "four", "five")
    asyncio.run(writer.keep(runs))
    asyncio.run(writer.keep(runs))
    assert calls == ["one"]
    assert counted("missed") == missed + 10


def test_a_batch_goes_on_after_the_timeout_while_redis_still_blocks(
    redis_url: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.bandit.memory_writer.TIMEOUT_S", 0.2)
    blocked, writer = BlockedFold(monkeypatch), writer_for(redis_url)

    async def keep() -> bool | None:
        await writer.keep(closed(family, "one", "two"))
        returned = blocked.returned_released
        blocked.release()
        return returned

    with capture_logs() as lines:
        assert asyncio.run(keep()) is None
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["why"] == "Redis did not answer within 0.2 s"


def test_waiting_for_redis_does_not_block_the_event_loop(
    redis_url: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop itself releases the blocked call; a blocked loop never would."""
    monkeypatch.setattr("esper.workers.bandit.memory_writer.TIMEOUT_S", 2 * TIMEOUT_S)
    blocked, writer = BlockedFold(monkeypatch), writer_for(redis_url)

    async def keep() -> None:
        keeping = asyncio.create_task(writer.keep(closed(family, "one")))
        assert await asyncio.to_thread(blocked.started.wait, TIMEOUT_S)
        blocked.release()
        await keeping

    asyncio.run(keep())
    assert blocked.returned_released


def test_an_unreadable_family_does_not_affect_others(redis_url: str, family: str) -> None:
    other = f"{family}-2"
    Redis.from_url(redis_url).hset(KEY_PREFIX + other, mapping={"schema": "2"})
    missed = counted("missed")
    with capture_logs() as lines:
        asyncio.run(writer_for(redis_url).keep([*closed(other, "one"), *closed(family, "two")]))
    assert counted("missed") == missed + 1
    assert RedisRunMemory(redis_url).read(family) != FamilyMemory()
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["run"] == "one"
    assert "has schema 2, not 1" in warning["why"]


def test_runs_are_added_again_when_redis_is_back(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.bandit.memory_writer.PAUSE_S", 0.0)
    service = RedisService(tmp_path, die_with_parent=CAN_DIE_WITH_PARENT)
    writer = writer_for(service.url)
    with capture_logs() as lines:
        asyncio.run(writer.keep(closed(family, "one")))
        service.start()
        try:
            asyncio.run(writer.keep(closed(family, "two", "three")))
            assert RedisRunMemory(service.url).read(family).runs == ("two", "three")
        finally:
            service.stop()
        asyncio.run(writer.keep(closed(family, "four")))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "runs are not added to memory",
        "runs are added to memory again",
        "runs are not added to memory",
    ]
