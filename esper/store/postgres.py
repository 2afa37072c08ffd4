"""The PostgreSQL tier: artifacts in a table that numbered SQL files create."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final, LiteralString, NamedTuple, TypeVar, cast

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from esper.store.credentials import NO_CREDENTIALS, StoreCredentials
from esper.store.errors import StoreForbidden, StoreUnavailable, StoreUrlInvalid
from esper.store.naming import MAX_ARTIFACT_BYTES, KernelName
from esper.store.tier import Entry

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 2
ANSWER_TIMEOUT_S: Final = 5.0
MIGRATION_TIMEOUT_S: Final = 60.0
MAX_IDLE_CONNECTIONS: Final = 4

MAX_CONNECTION_S: Final = 60.0
"""Longest life of a connection, and longest time without use: a server that is shut down in order
takes no new connections and waits for all others to end."""

MIGRATION_LOCK: Final = 0x6573_7065_72  # "esper"
"""Key of the advisory lock under which migrations are applied, one process at a time."""

_IDLE_TIMEOUT: Final = sql.SQL("SET idle_session_timeout = {}")

_PUT: Final = """
    INSERT INTO esper.kernels (kernel_id, sha256, bytes, content) VALUES (%s, %s, %s, %s)
    ON CONFLICT (kernel_id, sha256) DO UPDATE
    SET bytes = excluded.bytes, content = excluded.content, stored_at = now()"""

_GET: Final = """
    SELECT CASE WHEN bytes <= %s AND octet_length(content) <= %s THEN content ELSE '' END,
           coalesce(used_at, created_at) < now() - interval '1 day'
    FROM esper.kernels WHERE kernel_id = %s AND sha256 = %s"""

_USED: Final = "UPDATE esper.kernels SET used_at = now() WHERE kernel_id = %s AND sha256 = %s"

# The server hashes again: an entry that was replaced meanwhile stays.
_QUARANTINE: Final = """
    WITH altered AS (
        DELETE FROM esper.kernels
        WHERE kernel_id = %s AND sha256 = %s AND encode(sha256(content), 'hex') <> sha256
        RETURNING kernel_id, sha256, content, stored_at)
    INSERT INTO esper.quarantined_kernels (kernel_id, sha256, content, stored_at)
    SELECT * FROM altered
    ON CONFLICT (kernel_id, sha256) DO UPDATE
    SET content = excluded.content, stored_at = excluded.stored_at, quarantined_at = now()"""

_DELETE: Final = """
    DELETE FROM esper.kernels WHERE kernel_id = %s AND sha256 = %s
    AND (%s::float8 IS NULL OR stored_at < to_timestamp(%s::float8))"""

_ENTRIES: Final = """
    SELECT kernel_id, sha256, bytes, extract(epoch FROM stored_at)::float8 FROM esper.kernels
    ORDER BY stored_at"""


_FORBIDDEN: Final = (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)
"""Of the user's role, or of a standby server."""


class _Migration(NamedTuple):
    version: int
    statements: LiteralString


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up on a server that does not answer."""

    answer_timeout_s = ANSWER_TIMEOUT_S
    opened_s = 0.0
    lost = False
    """Whether the server ended the connection during the last operation."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for one answer, at most `answer_timeout_s`."""
        return super().wait(gen, interval, self.answer_timeout_s if timeout is None else timeout)


class PostgresTier:
    """Artifacts as rows of `esper.kernels`; missing tables are created on first use."""

    kind = "postgresql"
    in_process = False

    def __init__(self, url: str, credentials: StoreCredentials = NO_CREDENTIALS) -> None:
        """Connect on first use.

        Raises:
            StoreUrlInvalid: the URL is malformed.
        """
        self.address = address_of(url)
        self._url = url
        self._options = _options(url, credentials)
        self._migrated = False
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def write(self, name: KernelName, data: bytes) -> None:
        """Insert the artifact, or replace its content."""
        self._execute(_PUT, (*name, len(data), data))

    def read(self, name: KernelName) -> bytes | None:
        """Return the artifact's content, empty if it is longer than an artifact can be."""
        limit = (MAX_ARTIFACT_BYTES, MAX_ARTIFACT_BYTES)
        found = self._execute(_GET, (*limit, *name))
        if not found:
            return None
        data, stale = found[0]
        if stale:
            self._mark_used(name)
        return cast(bytes, data)

    def quarantine(self, name: KernelName, found: bytes) -> None:
        """Move the row to `esper.quarantined_kernels`."""
        self._execute(_QUARANTINE, name)

    def delete(self, name: KernelName, *, stored_before_s: float | None = None) -> bool:
        """Delete the row."""
        values = (*name, stored_before_s, stored_before_s)
        return self._run(lambda connection: connection.execute(_DELETE, values).rowcount > 0)

    def entries(self) -> Iterator[Entry]:
        """Yield the rows without their content, the oldest first."""
        for kernel_id, sha256, size, stored_s in self._execute(_ENTRIES, ()):
            yield Entry(KernelName(kernel_id, sha256), size, stored_s)

    def ping(self) -> None:
        """Check that the server answers and has the tables."""
        self._execute("SELECT 1", ())

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _execute(self, query: LiteralString, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        def run(connection: _Connection) -> list[tuple[Any, ...]]:
            cursor = connection.execute(query, values, binary=True)
            return cursor.fetchall() if cursor.description else []

        return self._run(run)

    def _mark_used(self, name: KernelName) -> None:
        def run(connection: _Connection) -> None:
            # A reader without the right to write, or a standby server, still reads.
            with suppress(*_FORBIDDEN):
                connection.execute(_USED, name)

        self._run(run)

    def _run(self, operation: Callable[[_Connection], T]) -> T:
        """Call an operation with a connection.

        Raises:
            StoreUnavailable: the server does not answer or refuses.
        """
        try:
            idle = self._take()
            if idle is not None:
                try:
                    return self._lend(idle, operation)
                except psycopg.OperationalError:
                    # The server was restarted since the connection was used.
                    if not idle.lost:
                        raise
            return self._lend(self._connect(), operation)
        except psycopg.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: psycopg.Error) -> StoreUnavailable:
        """Return the error of this package, with what to do."""
        if isinstance(error, _FORBIDDEN):
            return StoreForbidden(
                f"PostgreSQL at {self.address} forbids it ({_reason(error)}); "
                "grant the role its rights: docs/security.md"
            )
        failed = "does not answer" if isinstance(error, psycopg.OperationalError) else "refuses"
        return StoreUnavailable(
            f"PostgreSQL at {self.address} {failed} ({_reason(error)}); "
            "start it with `esper up --with postgres`, or set ESPER_KERNEL_STORE"
        )

    def _lend(self, connection: _Connection, operation: Callable[[_Connection], T]) -> T:
        """Call an operation, then keep the connection; close it after a failure."""
        try:
            result = operation(connection)
        except BaseException:
            connection.lost = connection.broken
            connection.close()
            raise
        young = time.monotonic() - connection.opened_s < MAX_CONNECTION_S
        with self._lock:
            if young and len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(connection)
                return result
        connection.close()
        return result

    def _take(self) -> _Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self) -> _Connection:
        connection = _Connection.connect(
            self._url,
            **self._options,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="esper",
        )
        connection.opened_s = time.monotonic()
        try:
            connection.execute(_IDLE_TIMEOUT.format(int(1000 * MAX_CONNECTION_S)))
            if not self._migrated:
                migrate(connection)
                self._migrated = True
        except BaseException:
            connection.close()
            raise
        return connection


def _options(url: str, credentials: StoreCredentials) -> dict[str, Any]:
    """Return the connection options that the URL lacks."""
    options: dict[str, Any] = {}
    if credentials.postgres_password is not None:
        options["password"] = credentials.postgres_password.get_secret_value()
    if credentials.postgres_ca_file is not None:
        options |= {"sslmode": "verify-full", "sslrootcert": str(credentials.postgres_ca_file)}
    named = conninfo_to_dict(url)
    return {name: value for name, value in options.items() if name not in named}


def migrate(connection: _Connection) -> None:
    """Apply the migrations that the database lacks, each in a transaction.

    A role that may not create tables can use a database that has them.

    Raises:
        psycopg.Error: a migration failed.
    """
    if _version(connection) >= _MIGRATIONS[-1].version:
        return
    connection.answer_timeout_s = MIGRATION_TIMEOUT_S
    with connection.transaction():
        # Concurrent processes wait here; the lock ends with the transaction.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        connection.execute("CREATE SCHEMA IF NOT EXISTS esper")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS esper.migrations "
            "(version int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        # Not before: a name that was looked up in vain stays unknown to the session until it
        # locks the table.
        applied = _version(connection)
        for migration in _MIGRATIONS:
            if migration.version > applied:
                connection.execute(migration.statements)
                connection.execute(
                    "INSERT INTO esper.migrations (version) VALUES (%s)", (migration.version,)
                )
    connection.answer_timeout_s = ANSWER_TIMEOUT_S


def _version(connection: _Connection) -> int:
    """Return the version of the last applied migration, 0 without any."""
    exists = connection.execute("SELECT to_regclass('esper.migrations')").fetchone()
    if exists is None or exists[0] is None:
        return 0
    last = connection.execute("SELECT coalesce(max(version), 0) FROM esper.migrations").fetchone()
    return cast(int, last[0]) if last else 0


def _read_migrations() -> tuple[_Migration, ...]:
    """Return the SQL files of this package in the order of their numbers."""
    found = sorted(
        (
            file
            for file in files(__package__).joinpath("migrations").iterdir()
            if file.name.endswith(".sql")
        ),
        key=lambda file: file.name,
    )
    return tuple(_Migration(int(file.name[:4]), file.read_text()) for file in found)


_MIGRATIONS: Final = _read_migrations()


def address_of(url: str) -> str:
    """Return `postgresql://HOST:PORT/DB`, without user and password.

    Raises:
        StoreUrlInvalid: the URL is malformed.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        # The parser's message may quote the password.
        raise StoreUrlInvalid(
            "a postgresql URL is malformed; use postgresql://USER@HOST:PORT/DB, and percent-encode "
            "special characters of the password"
        ) from None
    hosts = str(parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = str(parts.get("port") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    named = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{named}/{parts.get('dbname') or ''}"


def _reason(error: psycopg.Error) -> str:
    return " ".join((str(error) or type(error).__name__).split())
