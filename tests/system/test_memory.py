"""Runs learn from earlier runs through Redis, and need Redis for nothing else."""

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

import esper
from esper.audit import audit, fetch_history
from esper.bandit import FamilyMemory, with_run
from esper.blueprint import shipped_named
from esper.orchestrator import memory_updates
from esper.settings import Settings
from esper.store import RedisRunMemory
from esper.topics.bus import Bus, Record, partition_of, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, SEED_METRICS
from esper.topics.codec import decode
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    MemorySnapshot,
    Plant,
    SeedReport,
)
from esper.workers.cli import app, publish_blueprints
from esper.workers.local import CAN_DIE_WITH_PARENT, LocalStack, read_state
from tests.orchestrator.trained_memory import SIGNATURES, trained_run
from tests.orchestrator.trainer import Trainer
from tests.system.conftest import Running
from tests.system.training import Training
from tests.waiting import wait_until

WAIT_S = 120.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def running(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Workers with a separate Redis that holds only the memory; kernels are files."""
    home = tmp_path_factory.mktemp("stack")
    environment = {name: value for name, value in os.environ.items() if name != "ESPER_REDIS_URL"}
    environment["KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    environment["ESPER_KERNEL_STORE"] = f"file:{home / 'kernels'}"
    stack = LocalStack(home, environment=environment)
    stack.start(lambda line: None, die_with_parent=CAN_DIE_WITH_PARENT)
    try:
        yield Running(stack, Settings(ESPER_HOME=home))
    finally:
        stack.stop()


@pytest.fixture
def family() -> str:
    return f"family-{secrets.token_hex(4)}"


def memory_of(running: Running) -> RedisRunMemory:
    assert running.settings.redis_url is not None
    return RedisRunMemory(running.settings.redis_url)


def pid_of(running: Running, name: str) -> int:
    state = read_state(running.settings.home / "stack.json")
    assert state is not None
    return state.require_process(name).pid


@contextmanager
def without_redis(running: Running) -> Iterator[None]:
    running.stack.kill("redis")
    try:
        yield
    finally:
        running.stack.restart("redis")


def publish(running: Running, run: Trainer, at_seal: Callable[[], None] = lambda: None) -> None:
    """Publish the reports of an ended run; call `at_seal` when its last decision arrives."""
    key, sealed = run.run_id.encode(), threading.Event()

    def on_decision(record: Record) -> None:
        if decode(AdaptationDecision, record.value).seq == run.seq - 1:
            at_seal()
            sealed.set()

    bus = Bus.connect(running.settings.kafka_bootstrap_servers, source="/esper/test")
    bus.consume(ADAPTATION_DECISION.name, on_decision, key=key)
    for record in run.reports:
        bus.send(SEED_METRICS.name, key, record.value or b"").result(WAIT_S)
    assert sealed.wait(WAIT_S), "the run was not sealed"
    bus.close()


def earlier_run(family: str) -> Trainer:
    return trained_run(family, run_id=f"earlier-{secrets.token_hex(4)}")


def share_partition(*runs: Trainer) -> bool:
    partitions = {partition_of(run.run_id.encode(), SEED_METRICS.partitions) for run in runs}
    return len(partitions) == 1


def expected_after(run: Trainer) -> FamilyMemory:
    """Return the memory of a family after its first run, with times of 0."""
    return with_run(FamilyMemory(), memory_updates(run.fold_state), run_id=run.run_id, at_ms=0)


def timeless(memory: FamilyMemory) -> FamilyMemory:
    arms = {name: arm._replace(at_ms=0) for name, arm in memory.arms.items()}
    return FamilyMemory(arms, memory.runs)


def first_report_memory(running: Running, run_id: str) -> MemorySnapshot:
    servers = running.settings.kafka_bootstrap_servers
    record = read_topic(servers, SEED_METRICS.name, key=run_id.encode())[0]
    run_config = decode(SeedReport, record.value).run_config
    assert run_config is not None
    assert run_config.memory is not None
    return run_config.memory


def test_a_run_is_remembered_once_when_its_worker_dies_between_seal_and_memory(
    running: Running, family: str
) -> None:
    run, redis = earlier_run(family), pid_of(running, "redis")
    # Redis is stopped, so that the worker is still waiting for an answer when it is killed.
    os.kill(redis, signal.SIGSTOP)
    try:
        publish(running, run, at_seal=lambda: running.stack.kill("bandit"))
    finally:
        os.kill(redis, signal.SIGCONT)
    assert memory_of(running).read(family) == FamilyMemory()
    running.stack.restart("bandit")
    wait_until(lambda: memory_of(running).read(family).runs, "the run in the memory")
    assert timeless(memory_of(running).read(family)) == expected_after(run)


def test_a_run_is_remembered_once_when_its_worker_dies_right_after(
    running: Running, family: str
) -> None:
    run = earlier_run(family)

    def kill_when_remembered() -> None:
        wait_until(lambda: memory_of(running).read(family).runs, "the run in the memory")
        running.stack.kill("bandit")

    publish(running, run, at_seal=kill_when_remembered)
    running.stack.restart("bandit")
    # A later run of the partition is folded after all repeated records.
    later = next(
        entry for entry in iter(lambda: earlier_run(family), None) if share_partition(entry, run)
    )
    publish(running, later)
    wait_until(lambda: len(memory_of(running).read(family).runs) == 2, "both runs in the memory")
    assert memory_of(running).read(family).runs == (run.run_id, later.run_id)


def test_a_run_starts_with_the_memory_of_an_earlier_run_and_is_audited_without_redis(
    running: Running, family: str
) -> None:
    publish(running, earlier_run(family))
    wait_until(lambda: memory_of(running).read(family).runs, "the run in the memory")
    training = Training(running, family=family)
    with training.growth as growth:
        for _ in range(120):
            training.step()
    assert growth.run_history.sealed
    memory = first_report_memory(running, growth.run_id)
    fc = SIGNATURES["fc"]
    assert {(arm.signature, arm.blueprint_id) for arm in memory.arms} == {(fc, "a"), (fc, "b")}
    wait_until(lambda: len(memory_of(running).read(family).runs) == 2, "both runs in the memory")
    with without_redis(running):
        verdict = audit(fetch_history(running.settings.kafka_bootstrap_servers, growth.run_id))
    assert verdict.identical, verdict
    assert verdict.closed


def has_ended_trial(growth: esper.Growth) -> bool:
    """Return whether a kernel was kept or removed by a decision."""
    return any(
        isinstance(operation, Cull | Fossilize)
        for decision in growth.run_history.decisions
        for operation in decision.operations
    )


def test_a_training_starts_with_the_results_of_the_previous_training_of_its_family(
    running: Running, family: str
) -> None:
    publish_blueprints(running.settings, map(shipped_named, ("low-rank-skip", "conv-bottleneck")))
    training = Training(running, family=family, report_every=5)
    with training.growth as first:
        training.train_until(lambda: has_ended_trial(first), "the end of a trial")
    found = wait_until(lambda: memory_of(running).read(family).arms, "results in the memory")
    with Training(running, family=family).growth as second:
        pass
    planted = {
        (first.sites[operation.site].signature.text, operation.blueprint_id)
        for decision in first.run_history.decisions
        for operation in decision.operations
        if isinstance(operation, Plant)
    }
    assert found.keys() <= planted
    memory = first_report_memory(running, second.run_id)
    assert {(arm.signature, arm.blueprint_id): (arm.weight, arm.mean) for arm in memory.arms} == {
        name: (arm.weight, arm.mean) for name, arm in found.items()
    }


def test_a_run_without_redis_gets_decisions_and_can_be_added_to_the_memory_later(
    running: Running,
    family: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with without_redis(running):
        training = Training(running, family=family)
        with training.growth as growth:
            for _ in range(120):
                training.step()
        assert growth.run_history.sealed
    memory = first_report_memory(running, growth.run_id)
    assert memory.arms == ()
    assert memory.note is not None
    messages = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert messages == [f"run {growth.run_id} begins without memory of others: {memory.note}"]
    assert memory_of(running).read(family) == FamilyMemory()
    monkeypatch.setenv("ESPER_HOME", str(running.settings.home))
    result = CliRunner().invoke(app, ["memory", "learn", growth.run_id])
    assert result.exit_code == 0, result.output
    assert memory_of(running).read(family).runs == (growth.run_id,)
