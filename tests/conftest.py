"""Real services for the suite: started when a test first asks, always stopped, never skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.workers.local import CAN_DIE_WITH_PARENT, KafkaService, PostgresService, RedisService
from tests.run_log import RunLog

# Tables have the width that each test sets, not that of the terminal.
os.environ.pop("COLUMNS", None)

ROOT = Path(__file__).parents[1]


LONGEST_FIRST = (
    "tests/system",
    "tests/benchmarks",
    "tests/workers",
    "tests/training",
    "tests/topics",
)


def pytest_configure(config: pytest.Config) -> None:
    """Log the run in the process that gathers the results."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunLog())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that wait for services first, so that short ones fill the end of the run."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT).parent.as_posix()
        found = (n for n, name in enumerate(LONGEST_FIRST) if folder.startswith(name))
        return next(found, len(LONGEST_FIRST))

    items.sort(key=rank)


class ExternalKafka:
    """A broker that the environment names: used as it is, not ours to stop."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers

    def start(self) -> object:
        """Not possible."""
        raise self._refusal("start")

    def stop(self) -> None:
        """Not possible."""
        raise self._refusal("stop")

    def _refusal(self, verb: str) -> RuntimeError:
        return RuntimeError(
            f"this test must {verb} the broker, but KAFKA_BOOTSTRAP_SERVERS names one that is not "
            f"ours ({self.bootstrap_servers}): unset it for this test"
        )


@contextmanager
def _running(folder: Path) -> Iterator[KafkaService]:
    service = KafkaService(folder, die_with_parent=CAN_DIE_WITH_PARENT)
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService | ExternalKafka]:
    """The broker of this test session; `stop` and `start` keep its address and data.

    It begins without topics: tests create what they need.
    """
    _refuse_docker()
    address = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if address:
        yield ExternalKafka(address)
        return
    with _running(tmp_path_factory.mktemp("kafka")) as service:
        yield service


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaService]:
    """A broker for one module, whose tests depend on all that was ever published there."""
    with _running(tmp_path_factory.mktemp("kafka")) as service:
        yield service


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the Redis server of this test session."""
    _refuse_docker()
    address = os.environ.get("ESPER_REDIS_URL")
    if address:
        yield address
        return
    service = RedisService(tmp_path_factory.mktemp("redis"), die_with_parent=CAN_DIE_WITH_PARENT)
    service.start()
    try:
        yield service.url
    finally:
        service.stop()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the PostgreSQL server of this test session."""
    _refuse_docker()
    address = os.environ.get("ESPER_POSTGRES_URL")
    if address:
        yield address
        return
    folder = tmp_path_factory.mktemp("postgres")
    service = PostgresService(folder, die_with_parent=CAN_DIE_WITH_PARENT)
    service.start()
    try:
        yield service.url
    finally:
        service.stop()


@pytest.fixture(scope="module")
def esper_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh ESPER_HOME, in the environment of this module's tests and of what they start."""
    home = tmp_path_factory.mktemp("esper-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_HOME", str(home))
        yield home


def _refuse_docker() -> None:
    if os.environ.get("ESPER_TEST_SERVICES") == "docker":
        pytest.fail(
            "ESPER_TEST_SERVICES=docker is not supported yet: unset it to run on the "
            "pip-installed servers, or name running ones in KAFKA_BOOTSTRAP_SERVERS, "
            "ESPER_REDIS_URL and ESPER_POSTGRES_URL"
        )
