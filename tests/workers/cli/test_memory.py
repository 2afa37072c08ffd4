"""`esper memory`: show, forget, and learn from the topics of a run."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from esper.audit import cause_of
from esper.bandit import FamilyMemory, MemoryUpdate, with_run
from esper.orchestrator import fold, memory_updates
from esper.store import RedisRunMemory
from esper.store.run_memory import KEY_PREFIX
from esper.topics.bus import Bus, create_topics, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, SEED_METRICS
from esper.topics.codec import decode
from esper.topics.models import MemorySnapshot, SeedReport
from esper.workers.cli import app
from esper.workers.cli.memory import RedisNotConfigured
from tests.orchestrator.trained_memory import SIGNATURES, trained_run

FC = SIGNATURES["fc"]
WAIT_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def redis_named(redis_url: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_REDIS_URL", redis_url)
        yield


@pytest.fixture
def family() -> str:
    return f"family-{secrets.token_hex(4)}"


@pytest.fixture
def memory(redis_url: str, family: str) -> RedisRunMemory:
    """Return a family with one run in memory, three hours old."""
    memory = RedisRunMemory(redis_url)
    hours_ago = int(time.time() * 1000) - 3 * 3_600_000
    learnt = [MemoryUpdate(FC, "low-rank", 4, 0.75), MemoryUpdate(FC, "dropout-mlp", 1, 0.25)]
    memory.fold(family, learnt, run_id="earlier", at_ms=hours_ago)
    return memory


def esper(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["memory", *words], input=answer, env={"COLUMNS": "200"})


def words_of(result: Result) -> list[list[str]]:
    """The words of each line of a table, without its frame."""
    return [[word for word in line.split() if word != "│"] for line in result.output.splitlines()]


@pytest.mark.usefixtures("memory")
def test_show_lists_all_families(family: str) -> None:
    result = esper("show")
    assert result.exit_code == 0
    assert [family, "1", "2", "5.0", "3", "h", "ago"] in words_of(result)
    (facts,) = [
        row for row in json.loads(esper("show", "--json").output) if row["family"] == family
    ]
    assert (facts["runs"], facts["arms"], facts["weight"]) == (1, 2, 5.0)


@pytest.mark.usefixtures("memory")
def test_show_orders_a_family_by_site_and_mean(family: str) -> None:
    result = esper("show", family)
    assert result.exit_code == 0
    assert [line for line in words_of(result) if line[:1] == [FC]] == [
        [FC, "low-rank", "4.0", "0.750", "3", "h", "ago"],
        [FC, "dropout-mlp", "1.0", "0.250", "3", "h", "ago"],
    ]
    snapshot = MemorySnapshot.model_validate_json(esper("show", family, "--json").output)
    assert {(arm.blueprint_id, arm.weight, arm.mean) for arm in snapshot.arms} == {
        ("low-rank", 4.0, 0.75),
        ("dropout-mlp", 1.0, 0.25),
    }


def test_forget_asks_for_confirmation(memory: RedisRunMemory, family: str) -> None:
    assert esper("forget", family, answer="n\n").exit_code == 1
    assert memory.read(family).arms
    assert esper("forget", family, "--yes").exit_code == 0
    assert memory.read(family) == FamilyMemory()


@pytest.mark.parametrize("command", ["show", "forget"])
def test_an_unknown_family_is_a_usage_error(command: str, family: str) -> None:
    result = esper(command, family)
    assert result.exit_code == 2
    assert f"no memory of family '{family}'" in " ".join(result.output.split())


def test_memory_of_another_schema_is_reported_and_deletable(redis_url: str, family: str) -> None:
    Redis.from_url(redis_url).hset(KEY_PREFIX + family, mapping={"schema": "2"})
    result = esper("show")
    assert result.exit_code == 0
    assert f"family '{family}' in Redis at {redis_url} has schema 2, not 1" in result.output
    assert esper("forget", family, "--yes").exit_code == 0


def test_without_redis_the_error_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_REDIS_URL")
    result = esper("show")
    assert isinstance(result.exception, RedisNotConfigured)
    assert "esper up" in str(result.exception)


# -- learning from a record ---------------------------------------------------------------------


def recorded(kafka: Any, family: str | None, *, closing: bool = True, forged: bool = False) -> str:
    """Put a run on the topics as a trainer and a bandit worker would; return its id."""
    create_topics(kafka.bootstrap_servers)
    run = trained_run(family, run_id=f"run-{secrets.token_hex(4)}", closing=closing)
    key, state = run.run_id.encode(), None
    bus = Bus.connect(kafka.bootstrap_servers, source="/esper/test")
    for report in run.reports:
        bus.send(report.topic, key, report.value or b"").result(WAIT_S)
    for record in read_topic(kafka.bootstrap_servers, SEED_METRICS.name, key=key):
        report = decode(SeedReport, record.value)
        state, decisions, _ = fold(state, report, cause_of(record, report))
        for decision in decisions:
            reason = "another" if forged else decision.reason
            published = decision.model_copy(update={"reason": reason})
            bus.publish(ADAPTATION_DECISION, published).result(WAIT_S)
    bus.close()
    return run.run_id


@pytest.fixture
def named(kafka: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    return kafka


def test_learn_adds_a_missed_run_once(named: Any, redis_url: str, family: str) -> None:
    run_id = recorded(named, family)
    first, second = esper("learn", run_id), esper("learn", run_id)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.output.startswith(f"{family}: added ")
    assert second.output == f"{family}: {run_id} is in memory already\n"
    found = RedisRunMemory(redis_url).read(family)
    state = trained_run(family, run_id=run_id).fold_state
    assert (
        found.arms
        == with_run(
            FamilyMemory(),
            memory_updates(state),
            run_id=run_id,
            at_ms=next(arm.at_ms for arm in found.arms.values()),
        ).arms
    )
    assert found.runs == (run_id,)


@pytest.mark.parametrize(
    ("how", "code", "why"),
    [
        ({"forged": True}, 1, "different: run run-"),
        ({"closing": False}, 1, "is not closed; learn from it after it closes"),
        ({"family": None}, 1, "runs without memory, so it has no family to add to"),
    ],
)
def test_learn_refuses_an_unusable_run_in_one_line(
    named: Any, redis_url: str, family: str, how: dict[str, Any], code: int, why: str
) -> None:
    result = esper("learn", recorded(named, **{"family": family} | how))
    assert result.exit_code == code
    assert why in result.output
    assert result.output.count("\n") == 1
    assert family not in RedisRunMemory(redis_url).families()


def test_learn_exits_2_for_an_unknown_run(named: Any) -> None:
    create_topics(named.bootstrap_servers)
    result = esper("learn", "never-was")
    assert result.exit_code == 2
    assert "no report of run 'never-was'" in result.output
