"""The trainer reads memory and Redis, the compile worker writes Redis and PostgreSQL.

Redis is killed in the middle: the trainer plants what it has, the worker stores in PostgreSQL and
says that it is degraded, and all goes on when Redis is back.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esper.blueprint import shipped
from esper.settings import Settings
from esper.store import open_store
from esper.topics.bus import read_topic
from esper.topics.catalog import KERNEL_READY
from esper.topics.codec import decode
from esper.topics.models import Blueprint, KernelReady
from esper.workers.cli import publish_blueprints
from esper.workers.local import CAN_DIE_WITH_PARENT, LocalStack
from tests.store.servers import Killable, killable_redis, own_database
from tests.system.conftest import Running
from tests.system.test_metrics import labelled, metrics
from tests.system.training import Training
from tests.waiting import wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class TwoLists:
    """Workers with Redis before PostgreSQL, and a trainer's settings with memory before Redis."""

    running: Running
    redis: Killable
    postgres: str


@pytest.fixture(scope="module")
def lists(
    kafka: Any, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoLists]:
    home: Path = tmp_path_factory.mktemp("stack")
    with (
        killable_redis(tmp_path_factory.mktemp("redis")) as redis,
        own_database(postgres_url) as postgres,
    ):
        addresses = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "ESPER_REDIS_URL": redis.url,
            "ESPER_KERNEL_STORE": f"{redis.url},{postgres}",
        }
        stack = LocalStack(home, environment=os.environ | addresses)
        stack.start(lambda line: None, die_with_parent=CAN_DIE_WITH_PARENT)
        reads = {"ESPER_KERNEL_STORE": f"memory:64MiB,{redis.url}"}
        settings = Settings(ESPER_HOME=home, **addresses | reads)
        try:
            yield TwoLists(Running(stack, settings), redis, postgres)
        finally:
            stack.stop()


def batch(name: str) -> list[Blueprint]:
    """Return some blueprints with names of their own."""
    return [
        blueprint.model_copy(update={"blueprint_id": f"{blueprint.blueprint_id}-{name}"})
        for blueprint in shipped()
        if blueprint.blueprint_id in {"linear-bottleneck", "pointwise-mix", "channel-film"}
    ]


def announced(running: Running, name: str = "") -> list[KernelReady]:
    """Return the kernels of the batch `name`; of every batch, other tests' too, without a name."""
    records = read_topic(running.settings.kafka_bootstrap_servers, KERNEL_READY.name)
    ready = [decode(KernelReady, record.value) for record in records]
    return [one for one in ready if not name or one.blueprint_id.endswith(f"-{name}")]


def test_a_kernel_is_planted_while_redis_is_dead_and_new_ones_come_when_it_is_back(
    lists: TwoLists,
) -> None:
    running = lists.running
    training = Training(running, seed=11)

    def offered(name: str) -> bool:
        kernels = training.growth.run_history.kernels.values()
        return any(kernel.blueprint_id.endswith(f"-{name}") for kernel in kernels)

    with training.growth:
        publish_blueprints(running.settings, batch("before"))
        training.train_until(lambda: offered("before"), "a verified kernel")
        lists.redis.kill()
        try:
            # The broker is shared: the blueprints of tests that ran before are compiled here too.
            kernels_before = {ready.kernel_id for ready in announced(running)}
            _, kernel = training.until_planted()
            assert kernel.kernel_id in kernels_before
            publish_blueprints(running.settings, batch("during"))
            training.train_until(lambda: announced(running, "during"), "a kernel without Redis")
            found = labelled(running, "compile", "esper_store_tier_up")
            assert found == {"redis": 0.0, "postgresql": 1.0}
            assert labelled(running, "compile", "esper_kernels_stored_total")["degraded"] > 0
        finally:
            lists.redis.start()
        wait_until(
            lambda: labelled(running, "compile", "esper_store_tier_up")["redis"] == 1.0,
            "the worker to use Redis again",
        )
        publish_blueprints(running.settings, batch("after"))
        training.train_until(lambda: offered("after"), "a verified kernel after the outage")
        missed = announced(running, "during")
        with open_store(lists.redis.url) as redis:
            wait_until(
                lambda: all(redis.is_durable(ready.location) for ready in missed),
                "the kernels that Redis missed",
            )
    assert metrics(running, "compile")["esper_store_retries_total"] == 0
    with open_store(lists.postgres) as store:
        for ready in announced(running, "before") + announced(running, "during"):
            assert ready.location == f"{ready.kernel_id}/{ready.sha256}"
            assert store.is_durable(ready.location)
