"""PostgreSQL with TLS and one role for each process."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from esper.settings import Settings
from esper.store import KernelStore, StoreUnavailable, open_store
from tests.docs.blocks import ROOT
from tests.security.certificates import Authority
from tests.security.conftest import password_file
from tests.security.tls_front import tls_front
from tests.store.servers import own_database

PAGE = ROOT / "docs" / "security.md"
KERNEL_ID = "0" * 64
COMPILE, TRAINER = "esper-compile", "esper-trainer"


@dataclass(frozen=True)
class PostgresAccess:
    """The address of a database behind TLS, its authority, and a folder for password files."""

    port: int
    database: str
    authority: Authority
    folder: Path

    def store(self, role: str, options: str = "", **changed: object) -> KernelStore:
        """Return the kernel store of a process that logs in as a role."""
        password = password_file(self.folder / role, f"hunter2-{role}")
        environment = {
            "ESPER_KERNEL_STORE": f"postgresql://{role}@127.0.0.1:{self.port}/{self.database}"
            f"{options}",
            "ESPER_POSTGRES_PASSWORD_FILE": str(password),
            "ESPER_POSTGRES_CA_FILE": str(self.authority.file),
        }
        settings = Settings.model_validate(environment | changed)
        return open_store(settings.kernel_store_spec, settings.store_credentials)


@pytest.fixture
def postgres(postgres_url: str, authority: Authority, tmp_path: Path) -> Iterator[PostgresAccess]:
    """A database with the documented roles, behind TLS."""
    with own_database(postgres_url) as url, psycopg.connect(url, autocommit=True) as admin:
        for role in (COMPILE, TRAINER):
            admin.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'hunter2-{role}'".encode())
        database = urlsplit(url).path.lstrip("/")
        admin.execute(f'GRANT CREATE ON DATABASE "{database}" TO "{COMPILE}"'.encode())
        files = authority.issue("postgres")
        try:
            with tls_front(urlsplit(url).port or 0, files, postgres=True) as port:
                yield PostgresAccess(port, database, authority, tmp_path)
        finally:
            for role in (COMPILE, TRAINER):
                admin.execute(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"'.encode())


def grant_documented(access: PostgresAccess, postgres_url: str) -> None:
    """Grant a trainer what docs/security.md says that it needs."""
    text = " ".join(PAGE.read_text().split("## PostgreSQL")[1].split("\n## ")[0].split())
    grants = re.findall(r"`(GRANT [^`]+)`", text)
    assert len(grants) == 2
    address, _, options = postgres_url.partition("?")
    url = f"{address.rpartition('/')[0]}/{access.database}?{options}"
    with psycopg.connect(url, autocommit=True) as admin:
        for grant in grants:
            admin.execute(f'{grant} TO "{TRAINER}"'.encode())


def test_a_trainer_reads_what_a_compile_worker_stored_and_writes_nothing(
    postgres: PostgresAccess, postgres_url: str
) -> None:
    location = postgres.store(COMPILE).put(KERNEL_ID, b"artifact").location
    grant_documented(postgres, postgres_url)
    assert postgres.store(TRAINER).get(location) == b"artifact"
    with pytest.raises(StoreUnavailable, match=r"permission denied .* grant the role its rights"):
        postgres.store(TRAINER).put(KERNEL_ID, b"another")


def test_a_wrong_password_is_one_line_without_the_password(postgres: PostgresAccess) -> None:
    wrong = password_file(postgres.folder / "wrong", "hunter2-wrong")
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        postgres.store(COMPILE, ESPER_POSTGRES_PASSWORD_FILE=wrong).ping()
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_of_another_authority_is_refused(postgres: PostgresAccess, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger-ca")
    with pytest.raises(StoreUnavailable, match="certificate verify failed") as caught:
        postgres.store(COMPILE, ESPER_POSTGRES_CA_FILE=stranger.file).ping()
    assert "\n" not in str(caught.value)


def test_a_connection_without_tls_is_never_made(postgres: PostgresAccess) -> None:
    """The front cuts off a client in the clear: only TLS can have worked in the tests above."""
    with pytest.raises(StoreUnavailable, match="closed the connection unexpectedly"):
        postgres.store(COMPILE, "?sslmode=disable").ping()
