"""A real broker with TLS, SCRAM and access control: what it accepts, and one line for the rest."""

import asyncio
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ScramMechanism, UserScramCredentialDeletion

from esper.link import LinkClient, LinkRefused
from esper.settings import Settings
from esper.signing import create_keys
from esper.topics.acl import (
    AclEntry,
    Operation,
    Resource,
    acl_entries,
    default_principal,
    roles,
)
from esper.topics.bus import (
    AccessDenied,
    BrokerUnreachable,
    Bus,
    BusError,
    ConnectionRefused,
    Producer,
    create_topics,
    delete_records,
    partition_counts,
    read_topic,
    require_access,
)
from esper.topics.bus.acls import apply_acl, client_configuration
from esper.topics.catalog import (
    BANDIT_APP,
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    RUN_CONTROL,
    SEED_METRICS,
    is_partitioned_by_key,
    topic_specs,
)
from esper.topics.connection import KafkaConnection, SaslMechanism, Tls
from esper.topics.models import RunStatus, TrainingRun
from esper.training.link_config import link_config_for
from esper.workers.cli import main
from esper.workers.local.ports import free_port
from tests.security.certificates import Authority
from tests.security.conftest import NOBODY, kafka_environment
from tests.security.secured_kafka import ADMIN, SecuredKafka
from tests.waiting import wait_until

pytestmark = pytest.mark.heavy

Connect = Callable[[SecuredKafka], KafkaConnection | str]

NAMES = sorted(spec.name for spec in topic_specs())


def _partition_key(topic: str) -> bytes | None:
    """Return a partition key for a topic that needs one."""
    return None if is_partitioned_by_key(topic) else b"key"


def outcome(connection: KafkaConnection | str) -> BusError | None:
    """Connect; return the error."""
    try:
        asyncio.run(partition_counts(connection))
    except BusError as error:
        assert "\n" not in str(error)
        return error
    return None


# -- what is accepted ---------------------------------------------------------------------------

ACCEPTED: dict[str, Connect] = {
    "SASL_SSL, SCRAM-SHA-512": lambda kafka: kafka.connection(ADMIN),
    "SASL_SSL, SCRAM-SHA-256": lambda kafka: kafka.connection(
        ADMIN, mechanism=SaslMechanism.SCRAM_SHA_256
    ),
    "SASL_SSL, PLAIN": lambda kafka: kafka.connection(ADMIN, mechanism=SaslMechanism.PLAIN),
    "SASL_PLAINTEXT": lambda kafka: kafka.sasl_connection(ADMIN),
    "SSL with a client certificate": lambda kafka: kafka.ssl_connection("somebody"),
}


@pytest.mark.parametrize("connect", ACCEPTED.values(), ids=ACCEPTED)
def test_a_client_with_valid_credentials_is_accepted(
    secured: SecuredKafka, connect: Connect
) -> None:
    assert outcome(connect(secured)) is None


# -- what is refused ----------------------------------------------------------------------------


def with_wrong_ca(kafka: SecuredKafka) -> KafkaConnection:
    """Return a connection that trusts another authority."""
    stranger = Authority(kafka.authority.file.parent / "stranger", "stranger-ca")
    connection = kafka.connection(ADMIN)
    return connection.model_copy(update={"tls": Tls(ca_file=stranger.file)})


def without_certificate(kafka: SecuredKafka) -> KafkaConnection:
    """Return a connection without the client certificate that its listener asks for."""
    connection = kafka.ssl_connection("somebody")
    return connection.model_copy(update={"tls": Tls(ca_file=kafka.authority.file)})


def with_wrong_host(kafka: SecuredKafka) -> KafkaConnection:
    """Return a connection by a name that is not in the broker's certificate."""
    port = kafka.bootstrap_servers.rpartition(":")[2]
    return kafka.connection(ADMIN).model_copy(update={"bootstrap_servers": f"127.0.0.2:{port}"})


REFUSED: dict[str, tuple[Connect, type[BusError], str]] = {
    "wrong password": (
        lambda kafka: kafka.connection(ADMIN, password="hunter2-wrong"),
        ConnectionRefused,
        "it refuses User:admin or the password; check KAFKA_SASL_USERNAME",
    ),
    "unknown user": (
        lambda kafka: kafka.connection("mallory", password="hunter2-wrong"),
        ConnectionRefused,
        "it refuses User:mallory or the password",
    ),
    "expired certificate": (
        lambda kafka: kafka.expired_connection(),
        ConnectionRefused,
        "its certificate has expired",
    ),
    "wrong CA": (with_wrong_ca, ConnectionRefused, "its certificate is not of the CA in "),
    "no client certificate": (
        without_certificate,
        ConnectionRefused,
        "it refuses this client's certificate",
    ),
    "plain client at the TLS port": (
        lambda kafka: kafka.bootstrap_servers,
        BrokerUnreachable,
        "the port closes connections of PLAINTEXT: set KAFKA_SECURITY_PROTOCOL",
    ),
    "TLS client at a port without TLS": (
        lambda kafka: kafka.sasl_connection(ADMIN).model_copy(
            update={"tls": Tls(ca_file=kafka.authority.file)}
        ),
        BrokerUnreachable,
        "the port closes connections of SASL_SSL",
    ),
    "no log-in at a port that asks for one": (
        lambda kafka: KafkaConnection(
            bootstrap_servers=kafka.bootstrap_servers, tls=Tls(ca_file=kafka.authority.file)
        ),
        BrokerUnreachable,
        "the port closes connections of SSL",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_refused_client_gets_one_line_with_the_remedy(
    secured: SecuredKafka, case: tuple[Connect, type[BusError], str]
) -> None:
    connect, kind, words = case
    error = outcome(connect(secured))
    assert type(error) is kind
    assert words in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("KAFKA_SASL_USERNAME", "mallory", "it refuses User:mallory or the password"),
        ("KAFKA_SSL_CA_FILE", "stranger", "its certificate is not of the CA in"),
        ("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", "the port closes connections of PLAINTEXT"),
        ("KAFKA_SASL_PASSWORD_FILE", "/nowhere", "KAFKA_SASL_PASSWORD_FILE: cannot read /nowhere"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "KAFKA_SECURITY_PROTOCOL"),
    ],
)
def test_a_command_prints_one_line(
    secured: SecuredKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    words: str,
) -> None:
    if value == "stranger":
        value = str(Authority(tmp_path / "ca", "stranger-ca").file)
    environment = kafka_environment(secured, "esper-operator", tmp_path) | {variable: value}
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(sys, "argv", ["esper", "topics", "create"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert printed.err.count("\n") == 1 and words in printed.err
    assert "hunter2" not in printed.err


# -- access control -----------------------------------------------------------------------------


def test_applying_the_list_again_changes_nothing(secured: SecuredKafka) -> None:
    applied = apply_acl(secured.connection(ADMIN), acl_entries())
    assert applied.created == []


def test_entries_that_the_list_lacks_are_shown(secured: SecuredKafka) -> None:
    extra = acl_entries({"author": ["User:alice"]})
    assert len(apply_acl(secured.connection(ADMIN), extra).created) == 2
    shown = apply_acl(secured.connection(ADMIN), acl_entries()).others
    assert f"User:alice from *: ALLOW WRITE topic {BLUEPRINT_SUBMITTED.name} (literal)" in shown


def test_a_principal_that_may_not_alter_the_cluster_cannot_apply(secured: SecuredKafka) -> None:
    with pytest.raises(AccessDenied, match="User:esper-operator may not Alter cluster"):
        apply_acl(secured.connection("esper-operator"), acl_entries())


async def attempted_writes(connection: KafkaConnection) -> dict[str, str | None]:
    """Write to every topic; return the error by topic, None where the broker took the record."""
    producer = Producer(connection, source="/esper/test")
    errors: dict[str, str | None] = {}
    try:
        for name in NAMES:
            try:
                await producer.send(name, b"key", b"not an event", (), _partition_key(name))
                errors[name] = None
            except AccessDenied as error:
                errors[name] = str(error)
    finally:
        await producer.stop()
    return errors


@pytest.mark.parametrize("role", [*roles(), "nobody"])
def test_the_broker_refuses_each_forbidden_write(secured: SecuredKafka, role: str) -> None:
    allowed = set(roles()[role].write) if role in roles() else set()
    principal = default_principal(role)
    errors = asyncio.run(attempted_writes(secured.connection(f"esper-{role}")))
    assert {name for name, error in errors.items() if error is None} == allowed
    for name in NAMES:
        if name not in allowed:
            assert errors[name] == (
                f"{principal} may not Write topic {name}; missing ACL: --allow-principal "
                f"{principal} --operation Write --topic {name} (`esper topics acl` lists all)"
            )


@pytest.fixture(scope="module")
def written(secured: SecuredKafka) -> None:
    """A record in every topic: an empty one is never fetched."""
    assert not any(asyncio.run(attempted_writes(secured.connection(ADMIN))).values())


@pytest.mark.heavy
@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("role", [*roles(), "nobody"])
def test_the_broker_refuses_each_forbidden_read(secured: SecuredKafka, role: str) -> None:
    allowed = set(roles()[role].read) if role in roles() else set()
    readable = set()
    for name in NAMES:
        try:
            read_topic(secured.connection(f"esper-{role}"), name)
            readable.add(name)
        except AccessDenied as error:
            assert f"may not Read topic {name}; missing ACL: " in str(error)
    assert readable == allowed


def test_the_operator_can_create_topics_and_delete_dead_letters(secured: SecuredKafka) -> None:
    operator = secured.connection("esper-operator")
    assert create_topics(operator) == []
    delete_records(operator, SEED_METRICS.dead_letters, 0)
    with pytest.raises(AccessDenied, match=r"may not Delete topic run-control\.dlq"):
        delete_records(operator, RUN_CONTROL.dead_letters, 0)


def test_only_a_worker_may_read_in_its_group(secured: SecuredKafka) -> None:
    asyncio.run(require_access(secured.connection("esper-bandit"), [], BANDIT_APP))
    with pytest.raises(AccessDenied, match="may not Read group esper-bandit; missing ACL: "):
        asyncio.run(require_access(secured.connection("esper-trainer"), [], BANDIT_APP))


def test_a_bus_raises_what_the_broker_denies(secured: SecuredKafka) -> None:
    bus = Bus.connect(secured.connection("esper-author"), source="/esper/test")
    try:
        bus.consume(KERNEL_COMPILED.name, lambda record: None)
        with pytest.raises(AccessDenied, match="may not Read topic seed-metrics"):
            bus.consume(SEED_METRICS.name, lambda record: None)
        with pytest.raises(AccessDenied, match="may not Write topic seed-metrics"):
            bus.send(SEED_METRICS.name, b"key", b"value").result(30)
    finally:
        bus.close()


def test_a_client_that_may_write_nothing_can_read(secured: SecuredKafka) -> None:
    bus = Bus.connect(secured.connection("esper-auditor"), source="/esper/test")
    try:
        bus.consume(SEED_METRICS.name, lambda record: None)
        with pytest.raises(AccessDenied, match="may not Write topic seed-metrics"):
            bus.send(SEED_METRICS.name, b"key", b"value").result(30)
    finally:
        bus.close()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("user", "words"),
    [
        (NOBODY, "User:esper-nobody may not Describe topic adaptation-decision, "),
        ("mallory", "it refuses User:mallory or the password"),
    ],
)
def test_a_worker_that_is_refused_ends_with_one_line(
    secured: SecuredKafka, tmp_path: Path, user: str, words: str
) -> None:
    environment = kafka_environment(secured, NOBODY, tmp_path) | {"KAFKA_SASL_USERNAME": user}
    ended = run_bandit_worker(environment)
    assert ended.returncode == 1
    (line,) = [one for one in ended.stderr.splitlines() if "ESPER_REDIS_URL" not in one]
    assert words in line


MISSING: dict[str, tuple[str, AclEntry]] = {
    "carol": ("Write", AclEntry("", Operation.WRITE, Resource.TOPIC, SEED_METRICS.dead_letters)),
    "dave": ("Read", AclEntry("", Operation.READ, Resource.TOPIC, SEED_METRICS.name)),
}
"""By user: what a bandit worker under its principal may not do, and sees only while it works."""


@pytest.mark.heavy
@pytest.mark.parametrize("user", MISSING)
def test_a_worker_that_meets_a_refusal_ends_with_one_line(
    secured: SecuredKafka, tmp_path: Path, user: str
) -> None:
    operation, missing = MISSING[user]
    entries = [
        entry
        if entry[1:] != missing[1:]
        else entry._replace(operation=Operation.DESCRIBE)  # so that the topic is seen
        for entry in acl_entries({"bandit": [f"User:{user}"]})
        if entry.principal == f"User:{user}"
    ]
    apply_acl(secured.connection(ADMIN), entries)
    # No report: a worker sends it to the dead letter topic.
    write_one(secured.connection(ADMIN), SEED_METRICS.name)
    ended = run_bandit_worker(kafka_environment(secured, user, tmp_path))
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    expected = f"User:{user} may not {operation} topic {missing.name}; missing ACL: "
    assert [line.startswith(expected) for line in ended.stderr.splitlines()].count(True) == 1


def write_one(connection: KafkaConnection, topic: str) -> None:
    """Write a record that is no event."""

    async def write() -> None:
        producer = Producer(connection, source="/esper/test")
        await producer.send(topic, b"key", b"not an event", (), _partition_key(topic))
        await producer.stop()

    asyncio.run(write())


def run_bandit_worker(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a bandit worker until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "esper.workers", "worker", "bandit"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.heavy
def test_a_revoked_password_ends_a_running_client_and_a_running_worker(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    """The library's clients would retry silently, for ever."""
    apply_acl(
        secured.connection(ADMIN),
        acl_entries({"author": ["User:erin"], "bandit": ["User:erin"]}),
    )
    port = free_port()
    environment = kafka_environment(secured, "erin", tmp_path) | {"ESPER_METRICS_PORT": str(port)}
    command = [sys.executable, "-m", "esper.workers", "worker", "bandit"]
    bus = Bus.connect(secured.connection("erin"), source="/esper/test")
    worker = subprocess.Popen(
        command, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    try:
        bus.send(BLUEPRINT_SUBMITTED.name, b"key", b"not an event").result(60)
        wait_until(lambda: is_healthy(port), "a healthy worker")
        revoke("erin", secured)
        secured.stop()  # It keeps the connections that it has accepted.
        secured.start()
        with pytest.raises(ConnectionRefused, match="it refuses User:erin or the password"):
            bus.send(BLUEPRINT_SUBMITTED.name, b"key", b"not an event").result(120)
        assert "it refuses User:erin or the password" in worker.communicate(timeout=120)[1]
        assert worker.returncode == 1
    finally:
        worker.kill()
        bus.close()


def is_healthy(port: int) -> bool:
    """Return whether a worker answers that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60):
            return True
    except OSError:
        return False


def revoke(user: str, secured: SecuredKafka) -> None:
    """Delete a user's SCRAM credentials."""
    client = AdminClient(client_configuration(secured.connection(ADMIN)))
    deletion = UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)
    client.alter_user_scram_credentials([deletion])[user].result(30)


@pytest.mark.heavy
def test_a_trainer_without_permission_gets_one_line(secured: SecuredKafka, tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys")
    environment = kafka_environment(secured, NOBODY, tmp_path)
    settings = Settings.model_validate(environment | {"ESPER_TRUSTED_KEY_FILE": keys.public})
    config = link_config_for(settings, TrainingRun(run_id="one", status=RunStatus.OPEN, sites={}))
    with pytest.raises(LinkRefused) as refused:
        LinkClient(config, lambda frame: None)
    assert refused.value.kind == "AccessDenied"
    assert "may not Read topic kernel-revoked; missing ACL: " in str(refused.value)
    assert "hunter2" not in str(refused.value)
