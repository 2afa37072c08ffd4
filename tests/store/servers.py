"""Databases of one test: a Redis of its own, and a database of its own in PostgreSQL."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from redis import Redis

from esper.store import open_store
from esper.topics.codec import sha256_of
from esper.workers.local import CAN_DIE_WITH_PARENT, PostgresService, RedisService, process

KERNEL_ID = sha256_of(b"the plan")
ARTIFACT = bytes(range(256)) * 400
LOCATION = f"{KERNEL_ID}/{sha256_of(ARTIFACT)}"
REDIS_KEY = f"esper:kernel:{LOCATION}"


class Killable:
    """A service that a test kills and starts again at its address, with its data."""

    def __init__(self, service: RedisService | PostgresService) -> None:
        self._service = service
        self.url = service.url
        self._record = service.start()

    def kill(self) -> None:
        """End it by SIGKILL."""
        process.kill(self._record)

    def shut_down(self) -> None:
        """Ask it by SIGTERM to end in order; return at once."""
        psutil.Process(self._record.pid).terminate()

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return not process.is_alive(self._record)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop its processes within the block, so that it accepts connections and says nothing."""
        main = psutil.Process(self._record.pid)
        processes = [main, *main.children(recursive=True)]
        for one in processes:
            one.suspend()
        try:
            yield
        finally:
            for one in processes:
                one.resume()

    def start(self) -> None:
        """Start it again."""
        self._service.stop()
        self._record = self._service.start()

    def stop(self) -> None:
        """Stop it."""
        self._service.stop()


@contextmanager
def killable_redis(folder: Path) -> Iterator[Killable]:
    """Run a Redis server within the block."""
    server = Killable(RedisService(folder, die_with_parent=CAN_DIE_WITH_PARENT))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def killable_postgres(folder: Path) -> Iterator[Killable]:
    """Run a PostgreSQL server within the block."""
    server = Killable(PostgresService(folder, die_with_parent=CAN_DIE_WITH_PARENT))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def own_database(postgres_url: str) -> Iterator[str]:
    """Create an empty database within the block; return its URL."""
    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            address, _, options = postgres_url.partition("?")
            yield f"{address.rpartition('/')[0]}/{name}?{options}"
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def poison_postgres(url: str, content: bytes) -> None:
    """Replace the content of every artifact, past the constraint that forbids this."""
    with psycopg.connect(url, autocommit=True) as client:
        client.execute(
            "ALTER TABLE esper.kernels DROP CONSTRAINT IF EXISTS kernels_content_has_its_name"
        )
        client.execute("UPDATE esper.kernels SET content = %s, bytes = %s", (content, len(content)))


def redis_of(url: str) -> "Redis":
    """Return a plain client, without the options of a tier."""
    return Redis.from_url(url.partition("?")[0])


def stored_everywhere(*urls: str) -> None:
    """Put the artifact into each of these databases, each as the durable one."""
    for url in urls:
        with open_store(url) as store:
            store.put(KERNEL_ID, ARTIFACT)
