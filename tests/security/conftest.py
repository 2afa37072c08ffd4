"""A secured broker, and the environment of a process under one principal."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.topics.acl import acl_entries, roles
from esper.topics.bus import create_topics
from esper.topics.bus.acls import apply_acl
from tests.keys import PATHS
from tests.security.certificates import Authority
from tests.security.secured_kafka import ADMIN, SecuredKafka
from tests.security.secured_redis import SecuredRedis, password_of
from tests.security.tls_front import tls_front

NOBODY = "esper-nobody"
"""A user without any permission."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority that brokers and clients trust."""
    return Authority(tmp_path_factory.mktemp("ca"), "test-ca")


@pytest.fixture(scope="session")
def secured(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredKafka]:
    """A broker with all topics and the access control list of the project."""
    users = [*(f"esper-{role}" for role in roles()), NOBODY, "alice", "carol", "dave", "erin"]
    passwords = {user: f"hunter2-{user}" for user in users}
    service = SecuredKafka(tmp_path_factory.mktemp("secured-kafka"), authority, passwords)
    service.start()
    try:
        create_topics(service.connection(ADMIN))
        apply_acl(service.connection(ADMIN), acl_entries())
        yield service
    finally:
        service.stop()


def password_file(folder: Path, password: str) -> Path:
    """Write a password to a file that its owner alone can read."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "password"
    file.touch(mode=0o600)
    file.write_text(f"{password}\n")
    return file


def kafka_environment(secured: SecuredKafka, user: str, folder: Path) -> dict[str, str]:
    """Return the environment of a process under a user's principal."""
    return {
        "ESPER_HOME": str(folder),
        "ESPER_SIGNING_KEY_FILE": str(PATHS.private),
        "KAFKA_BOOTSTRAP_SERVERS": secured.bootstrap_servers,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD_FILE": str(password_file(folder, secured.passwords[user])),
        "KAFKA_SSL_CA_FILE": str(secured.authority.file),
    }


@dataclass(frozen=True)
class RedisAccess:
    """The address of a Redis behind TLS, its authority, and a folder for password files."""

    port: int
    authority: Authority
    folder: Path

    def environment(self, user: str) -> dict[str, str]:
        """Return the environment of a process that logs in as a user."""
        url = f"rediss://127.0.0.1:{self.port}/0"
        return {
            "ESPER_KERNEL_STORE": url,
            "ESPER_REDIS_URL": url,
            "ESPER_REDIS_USERNAME": user,
            "ESPER_REDIS_PASSWORD_FILE": str(password_file(self.folder / user, password_of(user))),
            "ESPER_REDIS_CA_FILE": str(self.authority.file),
        }


@pytest.fixture(scope="session")
def redis(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisAccess]:
    """A Redis with the documented users, behind TLS."""
    service = SecuredRedis(tmp_path_factory.mktemp("secured-redis"))
    service.start()
    try:
        with tls_front(service.port, authority.issue("redis")) as port:
            yield RedisAccess(port, authority, tmp_path_factory.mktemp("passwords"))
    finally:
        service.stop()
