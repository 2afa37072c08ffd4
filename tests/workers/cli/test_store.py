"""`esper store`: stat, verify, warm and gc on Redis, PostgreSQL and a real broker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from esper.kernel import UNSIGNED, sign_announcement
from esper.signing import SigningKey, create_keys
from esper.store import open_store
from esper.topics.bus import Bus, create_topics
from esper.topics.catalog import KERNEL_READY
from esper.topics.codec import sha256_of
from esper.topics.models import KernelReady, SiteKind, SiteSignature
from esper.workers.cli import app
from esper.workers.cli.named_kernels import NothingAnnounced
from tests.keys import KEY, PATHS
from tests.store.servers import own_database, poison_postgres, redis_of
from tests.waiting import TIMEOUT_S

SITE = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))
OLD_S = 30 * 86_400


def kernel_id_of(data: bytes) -> str:
    return sha256_of(b"plan of " + data)


@pytest.fixture(scope="module")
def servers(kafka: Any) -> str:
    """Return the address of a broker with the topics."""
    create_topics(kafka.bootstrap_servers)
    address: str = kafka.bootstrap_servers
    return address


@pytest.fixture
def urls(redis_url: str, postgres_url: str) -> Iterator[tuple[str, str]]:
    """Return the URLs of an empty Redis database and an empty PostgreSQL database."""
    redis = f"{redis_url.rpartition('/')[0]}/8"
    redis_of(redis).flushdb()
    with own_database(postgres_url) as postgres:
        yield redis, postgres


@pytest.fixture
def environment(
    servers: str, urls: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Set the environment of an operator; return it."""
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": servers,
        "ESPER_KERNEL_STORE": ",".join(("memory:8MiB", *urls)),
        "ESPER_TRUSTED_KEY_FILE": str(PATHS.public),
        "ESPER_HOME": str(tmp_path / "home"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


def esper(*words: str) -> Result:
    return CliRunner().invoke(app, ["store", *words], env={"COLUMNS": "200"})


def facts(*words: str, code: int = 0) -> Any:
    ended = esper(*words, "--json")
    assert ended.exit_code == code, ended.output
    return json.loads(ended.output)


def announce(servers: str, *contents: bytes, key: SigningKey = KEY) -> None:
    bus = Bus.connect(servers, source="/esper/test")
    for data in contents:
        unsigned = KernelReady(
            kernel_id=kernel_id_of(data),
            blueprint_id="any",
            category="any",
            site_signature=SITE,
            location=f"{kernel_id_of(data)}/{sha256_of(data)}",
            sha256=sha256_of(data),
            ed25519_signature=UNSIGNED,
            bytes=len(data),
            params=1,
        )
        bus.publish(KERNEL_READY, sign_announcement(key, unsigned)).result(TIMEOUT_S)
    bus.close()


def put(url: str, *contents: bytes, age_s: float = 0.0) -> None:
    """Store artifacts in one database, as if this had been `age_s` ago."""
    with open_store(url) as store:
        for data in contents:
            store.put(kernel_id_of(data), data)
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as client:
            client.execute("UPDATE esper.kernels SET stored_at = to_timestamp(%s)", (then(age_s),))
    else:
        for data in contents:
            name = f"{kernel_id_of(data)}/{sha256_of(data)}"
            redis_of(url).zadd("esper:kernel-index", {name: then(age_s)})


def then(age_s: float) -> float:
    return time.time() - age_s


@pytest.mark.heavy
def test_gc_against_a_broker_without_kernels_is_refused(
    environment: dict[str, str],
    own_kafka: Any,
    urls: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_topics(own_kafka.bootstrap_servers)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", own_kafka.bootstrap_servers)
    put(urls[1], b"kernel", age_s=OLD_S)
    ended = esper("gc", "--apply")
    assert isinstance(ended.exception, NothingAnnounced)
    assert "set KAFKA_BOOTSTRAP_SERVERS" in str(ended.exception)
    assert facts("stat")["tiers"][2]["entries"] == 1


def test_stat_shows_every_tier_with_its_content(
    environment: dict[str, str], urls: tuple[str, str]
) -> None:
    put(urls[1], b"one", b"three")
    put(urls[0], b"one")
    found = facts("stat")
    assert found["state"] == "healthy"
    assert [(tier["tier"], tier["entries"], tier["bytes"]) for tier in found["tiers"]] == [
        ("memory", 0, 0),
        ("redis", 1, 3),
        ("postgresql", 2, 8),
    ]
    assert "passfile" not in esper("stat").output


def test_stat_names_a_tier_that_is_down_and_exits_with_1(
    environment: dict[str, str], urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_KERNEL_STORE", f"redis://user:secret@127.0.0.1:1/0,{urls[1]}")
    found = facts("stat", code=1)
    assert found["state"] == "degraded"
    assert "does not answer" in found["tiers"][0]["error"]
    output = esper("stat").output
    assert "the store is degraded" in output
    assert "secret" not in output


def test_verify_finds_altered_entries_and_wrong_signatures(
    environment: dict[str, str], servers: str, urls: tuple[str, str], tmp_path: Path
) -> None:
    put(urls[1], b"good", b"altered", b"unknown", b"foreign")
    put(urls[0], b"good", b"only in Redis")
    announce(servers, b"good", b"altered", b"only in Redis")
    stranger = SigningKey.load(create_keys(tmp_path / "stranger").private)
    announce(servers, b"foreign", key=stranger)
    assert esper("verify", "--no-signatures").exit_code == 0
    poison = f"esper:kernel:{kernel_id_of(b'good')}/{sha256_of(b'good')}"
    redis_of(urls[0]).set(poison, b"poison")

    memory, redis, postgres = facts("verify", code=1)["tiers"]

    assert memory["checked"] == 0
    assert redis["checked"] == 2
    assert list(redis["bad"].values()) == [f"SHA-256 is {sha256_of(b'poison')}"]
    assert redis["not_durable"] == [
        f"{kernel_id_of(b'only in Redis')}/{sha256_of(b'only in Redis')}"
    ]
    (foreign,) = postgres["bad"]
    assert foreign.startswith(kernel_id_of(b"foreign"))
    assert "signature" in postgres["bad"][foreign]
    assert redis_of(urls[0]).get(poison) == b"poison", "without --quarantine nothing is moved"
    facts("verify", "--quarantine", code=1)
    assert redis_of(urls[0]).get(poison) is None


def test_verify_reads_postgresql_again(environment: dict[str, str], urls: tuple[str, str]) -> None:
    put(urls[1], b"good")
    poison_postgres(urls[1], b"bad")
    found = facts("verify", "--no-signatures", code=1)["tiers"][2]
    assert list(found["bad"].values()) == [f"SHA-256 is {sha256_of(b'bad')}"]


def test_warm_fills_redis_from_postgresql(
    environment: dict[str, str], urls: tuple[str, str]
) -> None:
    put(urls[1], b"one", b"two")
    put(urls[0], b"one")
    assert facts("warm") == {"redis": 1}
    assert facts("warm") == {"redis": 0}
    assert facts("stat")["tiers"][1]["entries"] == 2


def test_gc_deletes_what_nothing_names_and_shows_it_first(
    environment: dict[str, str], servers: str, urls: tuple[str, str]
) -> None:
    put(urls[1], b"announced", b"garbage", b"in a lineage", age_s=OLD_S)
    put(urls[0], b"garbage", age_s=OLD_S)
    announce(servers, b"announced")
    lineage = Path(environment["ESPER_HOME"]) / "grown" / "run" / "lineage.json"
    lineage.parent.mkdir(parents=True)
    lineage.write_text(json.dumps({"seeds": [{"kernel_id": kernel_id_of(b"in a lineage")}]}))
    garbage = f"{kernel_id_of(b'garbage')}/{sha256_of(b'garbage')}"

    shown = facts("gc")

    assert [tier["locations"] for tier in shown["tiers"]] == [[], [garbage], [garbage]]
    assert shown["tiers"][2]["kept"] == 2
    assert facts("stat")["tiers"][2]["entries"] == 3, "a dry run deletes nothing"
    assert "add --apply" in esper("gc").output
    assert facts("gc", "--apply")["tiers"] == shown["tiers"]
    assert [tier["entries"] for tier in facts("stat")["tiers"]] == [0, 0, 2]


def test_gc_goes_on_without_a_cache_that_is_down(
    environment: dict[str, str],
    servers: str,
    urls: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(urls[1], b"garbage", age_s=OLD_S)
    announce(servers, b"announced")
    monkeypatch.setenv("ESPER_KERNEL_STORE", f"redis://127.0.0.1:1/0,{urls[1]}")
    redis, postgres = facts("gc", "--apply", code=1)["tiers"]
    assert "does not answer" in redis["error"]
    assert len(postgres["locations"]) == 1
    assert open_store(urls[1]).state() == "healthy"


def test_gc_keeps_a_kernel_that_is_stored_but_not_announced_yet(
    environment: dict[str, str], servers: str, urls: tuple[str, str]
) -> None:
    announce(servers, b"announced")
    put(urls[1], b"just stored", age_s=3 * 3600)
    assert facts("gc")["tiers"][2]["locations"] == []
    assert facts("gc", "--apply")["tiers"][2]["locations"] == []
    assert facts("gc", "--older-than", "2h")["tiers"][2]["locations"] != []
    refused = esper("gc", "--older-than", "0h")
    assert refused.exit_code == 2
    assert "at least 1h" in refused.output
