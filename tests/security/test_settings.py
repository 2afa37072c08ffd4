"""Settings of the connection, and the secrets that no repr, document or error shows."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from esper.link import LinkConfig
from esper.settings import SettingMissing, Settings, kafka_of
from esper.store import StoreCredentials
from esper.topics.bus import TlsFileUnusable, client_options
from esper.topics.connection import KafkaConnection, Sasl, SaslMechanism, Tls
from esper.topics.models import RunStatus, TrainingRun
from esper.topics.secret import REVEALED, SecretFileUnusable
from tests.security.certificates import Authority
from tests.security.conftest import password_file

PASSWORD = "hunter2-recognisable"
CONNECTION = KafkaConnection(
    bootstrap_servers="kafka:9093",
    tls=Tls(ca_file=Path("/etc/esper/ca.pem")),
    sasl=Sasl(username="alice", password=SecretStr(PASSWORD)),
)


def settings(folder: Path, **given: Any) -> Settings:
    return Settings.model_validate({"ESPER_HOME": str(folder), **given})


def test_without_settings_the_connection_is_plain(tmp_path: Path) -> None:
    connection = settings(tmp_path, KAFKA_BOOTSTRAP_SERVERS="a:1,b:2").kafka
    assert connection == KafkaConnection(bootstrap_servers="a:1,b:2")
    assert client_options(connection) == client_options("a:1,b:2")
    assert connection.security_protocol == "PLAINTEXT"


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_settings_give_the_connection_of_their_protocol(tmp_path: Path, protocol: str) -> None:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": "a:1",
        "KAFKA_SECURITY_PROTOCOL": protocol,
        "KAFKA_SASL_USERNAME": "alice",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
        "KAFKA_SASL_PASSWORD_FILE": str(password_file(tmp_path, PASSWORD)),
        "KAFKA_SSL_CA_FILE": "ca.pem",
        "UNRELATED": "1",
    }
    connection = kafka_of(environment)
    assert connection.security_protocol == protocol
    if connection.sasl is not None:
        assert connection.sasl.password.get_secret_value() == PASSWORD
        assert connection.sasl.mechanism is SaslMechanism.SCRAM_SHA_256
        assert connection.principal == "User:alice"
    if connection.tls is not None:
        assert connection.tls.ca_file == Path("ca.pem")


def test_a_log_in_without_credentials_is_an_error(tmp_path: Path) -> None:
    given = settings(tmp_path, KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_SASL_USERNAME="alice")
    with pytest.raises(SettingMissing, match="KAFKA_SASL_PASSWORD_FILE"):
        _ = given.kafka


def test_a_client_certificate_without_its_key_is_an_error(tmp_path: Path) -> None:
    given = settings(tmp_path, KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CERT_FILE="own.pem")
    with pytest.raises(SettingMissing, match="KAFKA_SSL_KEY_FILE"):
        _ = given.kafka


@pytest.mark.parametrize("content", [None, b"", b"\n", b"one\ntwo\n", b"hunter2\xff\n"])
def test_an_unusable_password_file_is_one_line_without_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    given = settings(tmp_path, ESPER_REDIS_PASSWORD_FILE=str(file))
    with pytest.raises(SecretFileUnusable) as caught:
        _ = given.store_credentials
    message = str(caught.value)
    assert message.startswith("ESPER_REDIS_PASSWORD_FILE: ")
    assert str(file) in message and "\n" not in message
    assert "hunter2" not in message and caught.value.__cause__ is None


def test_a_password_may_end_in_spaces_and_have_any_character(tmp_path: Path) -> None:
    password = " pä$s,=\"'\\ "
    given = settings(tmp_path, ESPER_POSTGRES_PASSWORD_FILE=password_file(tmp_path, password))
    found = given.store_credentials.postgres_password
    assert found is not None and found.get_secret_value() == password


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o604, True)])
def test_a_file_that_every_user_can_read_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    file = password_file(tmp_path, PASSWORD)
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        _ = settings(tmp_path, ESPER_REDIS_PASSWORD_FILE=file).store_credentials
    assert (f"every user can read {file}" in caplog.text) is warned
    assert PASSWORD not in caplog.text


def test_no_repr_and_no_document_shows_a_secret(tmp_path: Path, run: TrainingRun) -> None:
    given = settings(
        tmp_path,
        KAFKA_SASL_PASSWORD_FILE=password_file(tmp_path, PASSWORD),
        KAFKA_SASL_USERNAME="alice",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        ESPER_REDIS_PASSWORD_FILE=password_file(tmp_path, PASSWORD),
        ESPER_REDIS_URL=f"redis://user:{PASSWORD}@host/0",
        ESPER_KERNEL_STORE=f"redis://user:{PASSWORD}@host/0",
    )
    config = link_config(given, run)
    for shown in (given, given.kafka, given.store_credentials, config):
        assert PASSWORD not in repr(shown) and PASSWORD not in str(shown)
    for shown in (given.kafka, given.store_credentials):
        assert PASSWORD not in shown.model_dump_json()
        assert PASSWORD not in repr(shown.model_dump())


def test_the_socket_of_the_sidecar_carries_the_secrets(tmp_path: Path, run: TrainingRun) -> None:
    config = LinkConfig(
        kafka=CONNECTION,
        kernel_store="redis://host/0",
        trusted_key_file="key.pem",
        source="/esper/run/one",
        run=run,
        store_credentials=StoreCredentials(redis_password=SecretStr(PASSWORD)),
    )
    received = LinkConfig.model_validate_json(config.to_socket())
    assert received == config
    assert received.kafka.sasl is not None
    assert received.kafka.sasl.password.get_secret_value() == PASSWORD
    assert CONNECTION.model_dump_json(context=REVEALED).count(PASSWORD) == 1


def test_a_wrong_setting_does_not_show_the_value_of_another_kind() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"ESPER_REDIS_URL": {"password": PASSWORD}})
    assert PASSWORD not in str(caught.value)


def test_certificate_files_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    missing, junk = tmp_path / "missing.pem", tmp_path / "junk.pem"
    junk.write_text("no certificate\n")
    for file in (missing, junk):
        with pytest.raises(TlsFileUnusable, match=f"KAFKA_SSL_CA_FILE: cannot load {file}"):
            client_options(KafkaConnection(bootstrap_servers="a:1", tls=Tls(ca_file=file)))
    authority = Authority(tmp_path / "ca", "ca")
    given = settings(
        tmp_path,
        KAFKA_SECURITY_PROTOCOL="SSL",
        KAFKA_SSL_CA_FILE=authority.file,
        KAFKA_SSL_CERT_FILE=authority.issue("one").certificate,
        KAFKA_SSL_KEY_FILE=authority.issue("two").key,
    )
    with pytest.raises(TlsFileUnusable, match="KAFKA_SSL_CERT_FILE, KAFKA_SSL_KEY_FILE"):
        client_options(given.kafka)


def link_config(settings: Settings, run: TrainingRun) -> LinkConfig:
    return LinkConfig(
        kafka=settings.kafka,
        kernel_store=settings.kernel_store_spec,
        trusted_key_file="key.pem",
        source="/esper/run/one",
        run=run,
        redis_url=settings.redis_url,
        store_credentials=settings.store_credentials,
    )


@pytest.fixture
def run() -> TrainingRun:
    return TrainingRun(run_id="one", status=RunStatus.OPEN, task="digits", sites={})
