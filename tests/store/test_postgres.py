"""The PostgreSQL tier, on a real server."""

import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from psycopg import errors

from esper.store import KernelAltered, KernelMissing, StoreUnavailable, open_store
from esper.store.postgres import MIGRATION_LOCK, PostgresTier
from esper.workers.local.ports import free_port
from tests.store.servers import ARTIFACT, KERNEL_ID, LOCATION, poison_postgres
from tests.waiting import wait_until

MIGRATE = "import sys; from esper.store import open_store; open_store(sys.argv[1]).ping()"


def test_another_client_gets_the_stored_bytes(empty_postgres: str) -> None:
    stored = open_store(empty_postgres).put(KERNEL_ID, ARTIFACT)
    assert stored.durable and not stored.degraded
    assert stored.location == LOCATION
    assert open_store(empty_postgres).get(LOCATION) == ARTIFACT


def test_an_unused_location_is_missing(empty_postgres: str) -> None:
    with pytest.raises(KernelMissing):
        open_store(empty_postgres).get(LOCATION)


def test_processes_that_start_together_apply_each_migration_once(empty_postgres: str) -> None:
    waiting = """SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"""
    command = [sys.executable, "-c", MIGRATE, empty_postgres]
    with psycopg.connect(empty_postgres) as client:
        client.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        # Both have seen a database without tables by now.
        wait_until(lambda: client.execute(waiting).fetchone() == (2,), "two waiting processes")
    for one in started:
        _, complaint = one.communicate(timeout=240)
        assert one.returncode == 0, complaint
    with psycopg.connect(empty_postgres) as client:
        applied = client.execute("SELECT version FROM esper.migrations ORDER BY 1").fetchall()
    assert applied == [(1,), (2,)]


def test_a_failed_migration_changes_nothing(empty_postgres: str) -> None:
    with psycopg.connect(empty_postgres, autocommit=True) as client:
        client.execute("CREATE SCHEMA esper; CREATE TABLE esper.quarantined_kernels (other int)")
        with pytest.raises(StoreUnavailable, match="already exists"):
            open_store(empty_postgres).ping()
        assert client.execute("SELECT to_regclass('esper.kernels')").fetchone() == (None,)
        client.execute("DROP TABLE esper.quarantined_kernels")
    open_store(empty_postgres).ping()


def test_a_role_that_may_only_read_reads(empty_postgres: str) -> None:
    open_store(empty_postgres).put(KERNEL_ID, ARTIFACT)
    with psycopg.connect(empty_postgres, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS reader")
        admin.execute("CREATE ROLE reader LOGIN PASSWORD 'only'")
        admin.execute("GRANT USAGE ON SCHEMA esper TO reader")
        admin.execute("GRANT SELECT ON esper.kernels, esper.migrations TO reader")
        admin.execute("UPDATE esper.kernels SET created_at = now() - interval '2 days'")
        try:
            host = empty_postgres.partition("@")[2].partition("?")[0]
            store = open_store(f"postgresql://reader:only@{host}")
            assert store.get(LOCATION) == ARTIFACT
            with pytest.raises(StoreUnavailable, match="permission denied"):
                store.put(KERNEL_ID, b"other")
            store.close()
        finally:
            admin.execute("DROP OWNED BY reader")
            admin.execute("DROP ROLE reader")


def test_the_time_of_the_last_read_is_kept_to_the_day(empty_postgres: str) -> None:
    store = open_store(empty_postgres)
    store.put(KERNEL_ID, ARTIFACT)
    with psycopg.connect(empty_postgres, autocommit=True) as client:
        store.get(LOCATION)
        assert client.execute("SELECT used_at FROM esper.kernels").fetchone() == (None,)
        client.execute("UPDATE esper.kernels SET created_at = now() - interval '2 days'")
        store.get(LOCATION)
        (used,) = client.execute("SELECT used_at > now() - interval '1 hour' FROM esper.kernels")
    assert used == (True,)


def test_the_database_refuses_content_of_another_name(empty_postgres: str) -> None:
    open_store(empty_postgres).put(KERNEL_ID, ARTIFACT)
    with (
        psycopg.connect(empty_postgres) as client,
        pytest.raises(errors.CheckViolation, match="kernels_content_has_its_name"),
    ):
        client.execute("UPDATE esper.kernels SET content = 'x', bytes = 1")


@pytest.mark.parametrize("poison", [b"other bytes", b"", bytes((32 << 20) + 1)], ids=len)
def test_an_altered_row_is_moved_to_the_quarantine(empty_postgres: str, poison: bytes) -> None:
    store = open_store(empty_postgres)
    store.put(KERNEL_ID, ARTIFACT)
    poison_postgres(empty_postgres, poison)
    with pytest.raises(KernelAltered):
        store.get(LOCATION)
    with pytest.raises(KernelMissing):
        store.get(LOCATION)
    with psycopg.connect(empty_postgres) as client:
        kept = client.execute("SELECT length(content) FROM esper.quarantined_kernels").fetchall()
    assert kept == [(len(poison),)]


def test_a_row_that_was_replaced_since_it_was_read_is_not_quarantined(empty_postgres: str) -> None:
    tier = PostgresTier(empty_postgres)
    open_store(empty_postgres).put(KERNEL_ID, ARTIFACT)
    (entry,) = tier.entries()
    tier.quarantine(entry.name, b"what was read before")
    assert tier.read(entry.name) == ARTIFACT


def test_a_repeated_put_makes_an_entry_young_again(empty_postgres: str) -> None:
    store = open_store(empty_postgres)
    store.put(KERNEL_ID, ARTIFACT)
    with psycopg.connect(empty_postgres, autocommit=True) as client:
        client.execute("UPDATE esper.kernels SET stored_at = now() - interval '9 days'")
    tier = PostgresTier(empty_postgres)
    (old,) = tier.entries()
    store.put(KERNEL_ID, ARTIFACT)
    assert not tier.delete(old.name, stored_before_s=old.stored_s + 60)
    assert store.get(LOCATION) == ARTIFACT


def test_an_unreachable_server_is_unavailable_and_its_password_is_not_shown() -> None:
    port = free_port()
    store = open_store(f"postgresql://user:secret@127.0.0.1:{port}/db")
    calls: list[Callable[[], object]] = [
        store.ping,
        lambda: store.put(KERNEL_ID, ARTIFACT),
        lambda: store.get(LOCATION),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=str(port)) as failure:
            call()
        assert "secret" not in str(failure.value)
        assert "\n" not in str(failure.value)


def test_a_wrong_password_is_unavailable(empty_postgres: str) -> None:
    host = empty_postgres.partition("@")[2].partition("?")[0]
    with pytest.raises(StoreUnavailable, match="password authentication failed") as failure:
        open_store(f"postgresql://esper:guess@{host}").ping()
    assert "guess" not in str(failure.value)
