"""Databases for the store's tests."""

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.store.servers import own_database


@pytest.fixture
def empty_redis(redis_url: str) -> Iterator[str]:
    """URL of an empty database of the session's Redis."""
    url = f"{redis_url.rpartition('/')[0]}/9"
    Redis.from_url(url).flushdb()
    yield url
    Redis.from_url(url).flushdb()


@pytest.fixture
def empty_postgres(postgres_url: str) -> Iterator[str]:
    """URL of a database without tables on the session's PostgreSQL."""
    with own_database(postgres_url) as url:
        yield url
