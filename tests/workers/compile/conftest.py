"""A fleet of simulated compile workers on a broker of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compile_fleet import Fleet, fleet
from esper.workers.local import KafkaService


@pytest.fixture
def workers(own_kafka: KafkaService, tmp_path: Path) -> Iterator[Fleet]:
    """Return the fleet of one test; its consumer group is that of all compile workers."""
    with fleet(own_kafka.bootstrap_servers, tmp_path) as opened:
        yield opened
