"""The kernel store: reads and writes of each tier against the bare client of its database.

An artifact of 100 KB, on loopback, every pair interleaved. A read through the store also verifies
the SHA-256 of what a database returned; the bare client's side does not, and a third side shows
what the hash costs. Memory holds what was verified before: its plain side is a dictionary, with and
without a hash on each read.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from redis import Redis

from benchmarks.result import Figure, Goal, Measurement, figure, ratio
from benchmarks.timing import interleaved, scaled
from esper.store import KernelStore, open_store
from esper.topics.codec import sha256_of
from esper.workers.local import PostgresService, RedisService

ARTIFACT_BYTES: Final = 100_000
KERNEL_ID: Final = sha256_of(b"benchmark")
ROUNDS: Final = 400
QUICK_ROUNDS: Final = 3
MEMORY_CALLS: Final = 200
KEY: Final = "bare"

Call = Callable[[], object]


class _Urls(NamedTuple):
    redis: str
    postgres: str


def run(quick: bool = False) -> Measurement:
    """Start Redis and PostgreSQL, and time reads and writes."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    data = (bytes(range(256)) * (ARTIFACT_BYTES // 256 + 1))[:ARTIFACT_BYTES]
    with _servers() as urls:
        figures = [
            *_memory(data, rounds),
            *_redis(urls.redis, data, rounds),
            *_postgres(urls.postgres, data, rounds),
        ]
    return Measurement(
        parameters={"bytes": ARTIFACT_BYTES, "rounds": rounds, "memory_calls": MEMORY_CALLS},
        figures=tuple(figures),
    )


@contextmanager
def _servers() -> Iterator[_Urls]:
    with tempfile.TemporaryDirectory(prefix="esper-benchmark-") as folder:
        redis = RedisService(Path(folder) / "redis", die_with_parent=True)
        postgres = PostgresService(Path(folder) / "postgres", die_with_parent=True)
        try:
            redis.start()
            postgres.start()
            yield _Urls(redis.url, postgres.url)
        finally:
            redis.stop()
            postgres.stop()


def _memory(data: bytes, rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="esper-benchmark-") as folder:
        store = open_store(f"memory:64MiB,file:{folder}")
        location = store.put(KERNEL_ID, data).location
        plain = {location: data}
        seconds = interleaved(
            {
                "store": lambda: store.get(location),
                "dict": lambda: plain[location],
                "dict and hash": lambda: sha256_of(plain[location]),
            },
            rounds=rounds,
            repeats=MEMORY_CALLS,
        )
    micros = {name: scaled(values, 1e6) for name, values in seconds.items()}
    return [
        figure(
            "memory-get",
            "memory: one read",
            "µs",
            micros["store"],
            goal=Goal(sense="at most", limit=10.0),
        ),
        ratio(
            "memory-get-over-hash",
            "memory: one read ÷ a dictionary's and a SHA-256",
            ("store", micros["store"]),
            ("dict and hash", micros["dict and hash"]),
            goal=Goal(sense="at most", limit=1.0),
        ),
        figure("dict-get", "a dictionary's read", "µs", micros["dict"]),
    ]


def _redis(url: str, data: bytes, rounds: int) -> list[Figure]:
    bare = Redis.from_url(url)
    bare.set(KEY, data)
    with open_store(url) as store:
        gets, puts = _against(
            store,
            data,
            rounds,
            bare_get=lambda: bare.get(KEY),
            bare_put=lambda: bare.set(KEY, data),
        )
    bare.close()
    return [
        figure(
            "redis-get",
            "Redis: one read of 100 KB, verified",
            "ms",
            gets["store"],
            goal=Goal(sense="at most", limit=1.0),
        ),
        *_ratios("redis", "Redis", gets, puts),
    ]


def _postgres(url: str, data: bytes, rounds: int) -> list[Figure]:
    with (
        psycopg.connect(url, autocommit=True) as bare,
        open_store(url) as store,
    ):
        bare.execute("CREATE TABLE bare (id text PRIMARY KEY, content bytea NOT NULL)")
        bare.execute("ALTER TABLE bare ALTER COLUMN content SET STORAGE EXTERNAL")
        put = (
            "INSERT INTO bare VALUES (%s, %s) "
            "ON CONFLICT (id) DO UPDATE SET content = excluded.content"
        )
        get = "SELECT content FROM bare WHERE id = %s"
        bare.execute(put, (KEY, data))
        gets, puts = _against(
            store,
            data,
            rounds,
            bare_get=lambda: bare.execute(get, (KEY,), binary=True).fetchone(),
            bare_put=lambda: bare.execute(put, (KEY, data)),
        )
    return [
        figure("postgres-get", "PostgreSQL: one read of 100 KB, verified", "ms", gets["store"]),
        *_ratios("postgres", "PostgreSQL", gets, puts),
    ]


def _against(
    store: KernelStore, data: bytes, rounds: int, *, bare_get: Call, bare_put: Call
) -> tuple[dict[str, Sequence[float]], dict[str, Sequence[float]]]:
    """Return milliseconds of reads and of writes, of the store and of the bare client."""
    location = store.put(KERNEL_ID, data).location
    reads: dict[str, Call] = {
        "store": lambda: store.get(location),
        "bare": bare_get,
        "bare and hash": lambda: (bare_get(), sha256_of(data)),
    }
    writes: dict[str, Call] = {"store": lambda: store.put(KERNEL_ID, data), "bare": bare_put}
    gets = interleaved(reads, rounds=rounds)
    puts = interleaved(writes, rounds=rounds)
    return (
        {name: scaled(values, 1e3) for name, values in gets.items()},
        {name: scaled(values, 1e3) for name, values in puts.items()},
    )


def _ratios(
    key: str, title: str, gets: dict[str, Sequence[float]], puts: dict[str, Sequence[float]]
) -> list[Figure]:
    return [
        ratio(
            f"{key}-get-over-bare",
            f"{title}: a verified read ÷ the bare client's",
            ("store", gets["store"]),
            ("bare", gets["bare"]),
        ),
        ratio(
            f"{key}-get-over-bare-and-hash",
            f"{title}: a verified read ÷ the bare client's and a SHA-256",
            ("store", gets["store"]),
            ("bare and hash", gets["bare and hash"]),
            goal=Goal(sense="at most", limit=1.5),
        ),
        ratio(
            f"{key}-put-over-bare",
            f"{title}: a write ÷ the bare client's",
            ("store", puts["store"]),
            ("bare", puts["bare"]),
        ),
    ]
