"""`esper kernel` and `esper keys`: revoke a kernel, and replace a key without losing kernels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from esper.kernel import ArtifactRefused, sign_announcement, verify_announcement, verify_revocation
from esper.signing import SigningKey, TrustedKeys, create_keys
from esper.topics.bus import Bus, create_topics, read_topic
from esper.topics.catalog import KERNEL_READY, KERNEL_REVOKED
from esper.topics.codec import decode
from esper.topics.models import KernelReady, KernelRevoked, SiteKind, SiteSignature
from esper.workers.cli import app
from tests.waiting import TIMEOUT_S

SITE = SiteSignature(kind=SiteKind.VECTOR, x=(6,), h=(6,))


@pytest.fixture(scope="module", autouse=True)
def servers(own_kafka: Any) -> str:
    """Return the address of a broker of this module, with the topics."""
    create_topics(own_kafka.bootstrap_servers)
    return str(own_kafka.bootstrap_servers)


@pytest.fixture(autouse=True)
def home(servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a deployment with keys, and set the environment to it."""
    paths = create_keys(tmp_path / "keys")
    monkeypatch.setenv("ESPER_HOME", str(tmp_path))
    monkeypatch.setenv("ESPER_SIGNING_KEY_FILE", str(paths.private))
    monkeypatch.setenv("ESPER_TRUSTED_KEY_FILE", str(paths.public))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    return tmp_path


@pytest.fixture
def bus(servers: str) -> Iterator[Bus]:
    opened = Bus.connect(servers, source="/esper/test")
    yield opened
    opened.close()


def esper(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def announce(bus: Bus, home: Path, digit: str) -> KernelReady:
    """Publish a signed announcement whose ids consist of one digit."""
    unsigned = KernelReady(
        kernel_id=digit * 64,
        blueprint_id=f"kernel-{digit}",
        category="linear",
        site_signature=SITE,
        location=f"file:{digit * 64}/{digit * 64}",
        sha256=digit * 64,
        ed25519_signature="0" * 128,
        bytes=1,
        params=1,
    )
    ready = sign_announcement(SigningKey.load(home / "keys" / "signing-key.pem"), unsigned)
    bus.publish(KERNEL_READY, ready).result(TIMEOUT_S)
    return ready


def announced(servers: str, kernel_id: str) -> KernelReady:
    """Return the last announcement of a kernel."""
    *_, record = read_topic(servers, KERNEL_READY.name, key=kernel_id.encode())
    return decode(KernelReady, record.value)


def test_a_revoked_kernel_is_named_by_its_first_digits(servers: str, bus: Bus, home: Path) -> None:
    ready = announce(bus, home, "a")
    assert esper("kernel", "revoke", "aaaa", "--reason", "it leaks").output.strip() == (
        f"revoked {ready.sha256}"
    )
    *_, record = read_topic(servers, KERNEL_REVOKED.name)
    revoked = decode(KernelRevoked, record.value)
    verify_revocation(TrustedKeys(home / "keys" / "trusted-key.pem"), revoked)
    assert (revoked.sha256, revoked.reason) == (ready.sha256, "it leaks")
    listed = json.loads(esper("kernel", "list", "--json").output)
    (row,) = (row for row in listed if row["sha256"] == ready.sha256)
    assert (row["blueprint"], row["revoked"]) == ("kernel-a", "it leaks")
    assert "it leaks" in esper("kernel", "list").output


def test_an_unknown_or_ambiguous_sha256_revokes_nothing(servers: str, bus: Bus, home: Path) -> None:
    announce(bus, home, "b")
    announce(bus, home, "c")
    before = len(read_topic(servers, KERNEL_REVOKED.name))
    for digits in ("", "d"):
        ended = esper("kernel", "revoke", digits, "--reason", "why")
        assert "see: esper kernel list" in str(ended.exception)
    assert len(read_topic(servers, KERNEL_REVOKED.name)) == before


def test_after_a_rotation_sign_again_and_retire_only_the_new_key_counts(
    servers: str, bus: Bus, home: Path
) -> None:
    forged = announce(bus, home, "e").model_copy(update={"params": 2})
    ready = announce(bus, home, "f")
    bus.publish(KERNEL_READY, forged).result(TIMEOUT_S)
    (old,) = json.loads(esper("keys", "list", "--json").output)
    assert old["state"] == "signing"
    assert "is trusted, and signs after" in esper("keys", "rotate", "--prepare").output
    assert "restart the workers" in esper("keys", "rotate").output
    listed = json.loads(esper("keys", "list", "--json").output)
    states = {row["fingerprint"]: row["state"] for row in listed}
    assert states[old["fingerprint"]] == "trusted"
    assert sorted(states.values()) == ["signing", "trusted"]
    counts = json.loads(esper("kernel", "sign-again", "--json").output)
    assert counts["signed"] >= 1
    assert esper("keys", "retire", old["fingerprint"]).exit_code == 0
    trusted = TrustedKeys(home / "keys" / "trusted-key.pem")
    with pytest.raises(ArtifactRefused):
        verify_announcement(trusted, ready)
    again = announced(servers, ready.kernel_id)
    records = read_topic(servers, KERNEL_READY.name, key=ready.kernel_id.encode())
    assert len({record.partition for record in records}) == 1
    verify_announcement(trusted, again)
    assert again.model_copy(update={"ed25519_signature": ready.ed25519_signature}) == ready
    with pytest.raises(ArtifactRefused):
        verify_announcement(trusted, announced(servers, forged.kernel_id))
