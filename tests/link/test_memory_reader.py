"""The memory that a run reads when it opens, from a real Redis or from none."""

import secrets
import socket

import pytest
from redis import Redis

from esper.bandit import MemoryUpdate
from esper.link.memory_reader import MemoryReader
from esper.store import RedisRunMemory
from esper.store.run_memory import KEY_PREFIX
from esper.topics.models import RememberedArm, RunStatus, SiteKind, SiteSignature, TrainingRun

FC = SiteSignature(kind=SiteKind.VECTOR, x=(32,), h=(12,))


@pytest.fixture
def run() -> TrainingRun:
    family = f"family-{secrets.token_hex(4)}"
    return TrainingRun(run_id="one", status=RunStatus.OPEN, sites={"fc1": FC}, task=family)


def without_reading(redis_url: str | None, run: TrainingRun) -> str:
    """The note of a run that could not read its memory."""
    found = MemoryReader(redis_url, run).snapshot()
    assert found.family == run.task
    assert found.arms == ()
    assert found.note is not None
    return found.note


def test_a_run_hears_what_is_known_of_sites_like_its_own(redis_url: str, run: TrainingRun) -> None:
    learnt = [
        MemoryUpdate(FC.text, "low-rank", 4, 0.7),
        MemoryUpdate("vector:9>9", "low-rank", 4, 0.1),
    ]
    RedisRunMemory(redis_url).fold(run.task, learnt, run_id="earlier", at_ms=0)
    found = MemoryReader(redis_url, run).snapshot()
    assert found.family == run.task
    assert found.note is None
    assert found.arms == (
        RememberedArm(signature=FC.text, blueprint_id="low-rank", weight=4.0, mean=0.7),
    )


def test_the_first_run_of_a_family_knows_nothing_and_nothing_is_wrong(
    redis_url: str, run: TrainingRun
) -> None:
    found = MemoryReader(redis_url, run).snapshot()
    assert (found.arms, found.note) == ((), None)


def test_without_redis_the_note_says_what_to_set(run: TrainingRun) -> None:
    assert "set ESPER_REDIS_URL" in without_reading(None, run)


def test_a_redis_that_is_not_there_is_noted(run: TrainingRun) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    note = without_reading(f"redis://user:secret@127.0.0.1:{port}/0", run)
    assert f"Redis at redis://127.0.0.1:{port}/0 does not answer" in note


def test_a_redis_that_never_answers_is_not_waited_for_long(run: TrainingRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        without_reading(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", run)


def test_a_url_that_is_none_is_noted(run: TrainingRun) -> None:
    assert "port" in without_reading("redis://host:port/0", run)


def test_memory_of_another_schema_is_noted(redis_url: str, run: TrainingRun) -> None:
    Redis.from_url(redis_url).hset(KEY_PREFIX + run.task, mapping={"schema": "2"})
    assert "has schema 2, not 1" in without_reading(redis_url, run)
