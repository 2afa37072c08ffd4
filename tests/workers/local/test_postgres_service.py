"""The PostgreSQL service: a real server that keeps its address, password and data."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from esper.workers.local import process
from esper.workers.local.errors import PortError
from esper.workers.local.ports import LOOPBACK
from esper.workers.local.postgres import PostgresService, address_of, is_answering
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database is created once, for all tests of this module."""
    return tmp_path_factory.mktemp("postgres")


@pytest.fixture
def service(folder: Path) -> Iterator[PostgresService]:
    service = PostgresService(folder)
    service.start()
    yield service
    service.stop()


def test_a_restart_keeps_address_password_and_data(service: PostgresService, folder: Path) -> None:
    with psycopg.connect(service.url) as client:
        client.execute("CREATE TABLE kept (value int)")
    service.stop()

    again = PostgresService(folder)
    again.start()
    try:
        assert again.url == service.url
        with psycopg.connect(again.url) as client:
            assert client.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    finally:
        again.stop()


def test_stop_ends_the_server_in_order_although_a_client_is_connected(
    service: PostgresService,
) -> None:
    assert service._record is not None
    record = service._record
    with psycopg.connect(service.url):
        service.stop()

    assert not process.is_alive(record)
    assert not is_answering(service.url)
    assert "database system is shut down" in record.log.read_text()[record.log_start :]


def test_a_killed_server_starts_again_at_once(service: PostgresService) -> None:
    assert service._record is not None
    client = psycopg.connect(service.url)
    client.execute("SELECT 1")
    process.kill(service._record)
    service.start()
    client.close()
    with psycopg.connect(service.url) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_only_the_owner_can_read_the_password_and_the_url_does_not_show_it(
    service: PostgresService, folder: Path
) -> None:
    passfile = folder / "pgpass"
    assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
    password = passfile.read_text().strip().rpartition(":")[2]
    assert len(password) > 20
    assert password not in service.url
    assert address_of(service.url) == service.url.partition("?")[0].replace("esper@", "")
    others = [path for path in folder.iterdir() if path.is_file() and path != passfile]
    assert not any(password.encode() in path.read_bytes() for path in others)


def test_a_server_that_moves_to_another_port_keeps_its_password(
    service: PostgresService, folder: Path
) -> None:
    service.stop()
    (folder / "port").unlink()
    moved = PostgresService(folder)
    moved.start()
    try:
        psycopg.connect(moved.url).close()
    finally:
        moved.stop()


def test_a_client_without_the_password_is_refused(service: PostgresService, tmp_path: Path) -> None:
    wrong = tmp_path / "pgpass"
    wrong.write_text("*:*:*:*:guess\n")
    wrong.chmod(0o600)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(service.url.partition("?")[0], passfile=str(wrong))


def test_the_server_listens_on_loopback_and_on_no_socket_file(service: PostgresService) -> None:
    with psycopg.connect(service.url) as client:
        shown = [
            client.execute(f"SHOW {name}").fetchone()
            for name in ("listen_addresses", "unix_socket_directories", "password_encryption")
        ]
        rules = client.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert shown == [(LOOPBACK,), ("",), ("scram-sha-256",)]
    assert rules == [("scram-sha-256",)]


def test_a_used_port_raises_with_the_remedy(tmp_path: Path) -> None:
    service = PostgresService(tmp_path)
    port = int((tmp_path / "port").read_text())
    with socket.create_server((LOOPBACK, port)), pytest.raises(PortError) as caught:
        service.start()

    assert f"postgres needs port {port}" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ties processes to their parent")
def test_with_die_with_parent_the_server_dies_with_a_killed_starter(folder: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from esper.workers.local.postgres import PostgresService\n"
        f"service = PostgresService(Path({str(folder)!r}), die_with_parent=True)\n"
        "print(service.start().model_dump_json(), flush=True)\n"
        "input()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        record = process.ProcessRecord.model_validate_json(starter.stdout.readline())
        starter.kill()
        starter.wait()
    wait_until(lambda: not process.is_alive(record), "the end of PostgreSQL")
