"""Fixtures of the training tests: one torch thread, for small tensors, and a broker."""

from collections.abc import Iterator
from typing import Any

import pytest

from esper.settings import Settings
from esper.topics.bus import create_topics
from tests.keys import PATHS
from tests.seed.conftest import one_thread
from tests.training.fake_workers import Outside

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def settings(kafka: Any, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return settings with the session's broker and Redis, a file store, and the test key."""
    home = tmp_path_factory.mktemp("home")
    create_topics(kafka.bootstrap_servers)
    return Settings(
        ESPER_HOME=home,
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        ESPER_REDIS_URL=redis_url,
        ESPER_TRUSTED_KEY_FILE=PATHS.public,
    )


@pytest.fixture
def outside(settings: Settings) -> Iterator[Outside]:
    opened = Outside(settings)
    yield opened
    opened.bus.close()
