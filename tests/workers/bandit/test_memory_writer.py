"""What a bandit worker does with runs that close, with a real Redis and with none."""

import asyncio
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from redis import Redis
from structlog.testing import capture_logs

from esper.bandit import FamilyMemory
from esper.orchestrator import FoldState
from esper.settings import Settings
from esper.store import RedisRunMemory
from esper.store.run_memory import KEY_PREFIX
from esper.workers.bandit.memory_writer import LIMIT_S, MemoryWriter
from esper.workers.local.process import CAN_DIE_WITH_PARENT
from esper.workers.local.redis import RedisService
from tests.orchestrator.trained_memory import taught_run


@pytest.fixture
def family() -> str:
    return f"family-{secrets.token_hex(4)}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def closed(family: str | None, *names: str) -> list[FoldState]:
    return [taught_run(family, run_id=name).folded for name in names]


def at(url: str | None) -> MemoryWriter:
    return MemoryWriter(Settings(ESPER_REDIS_URL=url))


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("esper_runs_remembered_total", {"outcome": outcome}) or 0.0


def test_what_a_closed_run_found_is_kept_once(redis_url: str, family: str) -> None:
    kept, known = counted("kept"), counted("known")
    (run,) = closed(family, "one")
    asyncio.run(at(redis_url).keep([run]))
    found = RedisRunMemory(redis_url).read(family)
    # The worker was killed after that, and another one folds the run again.
    asyncio.run(at(redis_url).keep([run]))
    assert found.runs == ("one",)
    assert found.arms
    assert RedisRunMemory(redis_url).read(family) == found
    assert (counted("kept"), counted("known")) == (kept + 1, known + 1)


def test_a_run_told_to_do_without_memory_leaves_none(redis_url: str) -> None:
    families, missed = RedisRunMemory(redis_url).families(), counted("missed")
    asyncio.run(at(redis_url).keep(closed(None, "one")))
    assert RedisRunMemory(redis_url).families() == families
    assert counted("missed") == missed


@pytest.mark.parametrize("url", [None, "redis://host:port/0", "redis://127.0.0.1:1/0"])
def test_without_redis_a_worker_says_so_once_and_counts_every_run(
    url: str | None, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.bandit.memory_writer.PAUSE_S", 0.0)
    missed = counted("missed")
    with capture_logs() as lines:
        remembering = at(url)
        for run in closed(family, "one", "two", "three"):
            asyncio.run(remembering.keep([run]))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "runs are not remembered"
    ]
    assert [line["repair"] for line in lines if line["event"] == "missed"] == [
        f"esper memory learn {name}" for name in ("one", "two", "three")
    ]
    assert counted("missed") == missed + 3


def test_a_redis_that_never_answers_holds_up_one_batch_and_for_no_longer_than_the_limit(
    silent: str, family: str
) -> None:
    remembering = at(silent)
    runs = closed(family, "one", "two", "three", "four", "five")

    async def keep() -> tuple[float, float]:
        begun = time.monotonic()
        await remembering.keep(runs)
        first_s, begun = time.monotonic() - begun, time.monotonic()
        await remembering.keep(runs)
        return first_s, time.monotonic() - begun

    first_s, second_s = asyncio.run(keep())
    assert first_s < LIMIT_S
    assert second_s < 0.1


def test_the_loop_goes_on_while_redis_is_waited_for(silent: str, family: str) -> None:
    remembering = at(silent)
    runs = closed(family, "one")

    async def longest_pause_s() -> float:
        keeping = asyncio.ensure_future(remembering.keep(runs))
        longest, last = 0.0, time.monotonic()
        while not keeping.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    assert asyncio.run(longest_pause_s()) < 0.5


def test_memory_of_another_schema_costs_that_family_alone(redis_url: str, family: str) -> None:
    other = f"{family}-2"
    Redis.from_url(redis_url).hset(KEY_PREFIX + other, mapping={"schema": "2"})
    missed = counted("missed")
    with capture_logs() as lines:
        asyncio.run(at(redis_url).keep([*closed(other, "one"), *closed(family, "two")]))
    assert counted("missed") == missed + 1
    assert RedisRunMemory(redis_url).read(family) != FamilyMemory()
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["run"] == "one"
    assert "has schema 2, not 1" in warning["why"]


def test_runs_are_remembered_again_when_redis_is_back(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.workers.bandit.memory_writer.PAUSE_S", 0.0)
    service = RedisService(tmp_path, die_with_parent=CAN_DIE_WITH_PARENT)
    remembering = at(service.url)
    with capture_logs() as lines:
        asyncio.run(remembering.keep(closed(family, "one")))
        service.start()
        try:
            asyncio.run(remembering.keep(closed(family, "two", "three")))
            assert RedisRunMemory(service.url).read(family).runs == ("two", "three")
        finally:
            service.stop()
        asyncio.run(remembering.keep(closed(family, "four")))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "runs are not remembered",
        "runs are remembered again",
        "runs are not remembered",
    ]
