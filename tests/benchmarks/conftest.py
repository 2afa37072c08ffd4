"""One local stack for all benchmarks that need one."""

from collections.abc import Iterator

import pytest

from benchmarks.stack import Stack, local_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Start Kafka, Redis and both workers for these tests."""
    with local_stack() as running:
        yield running
