"""A real broker with TLS, SCRAM and access control, as `docs/security.md` describes it."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from esper.topics.bus import BusError, partition_counts
from esper.topics.connection import ClientCertificate, KafkaConnection, Sasl, SaslMechanism, Tls
from esper.workers.local import CAN_DIE_WITH_PARENT, KafkaService
from esper.workers.local.ports import LOOPBACK, free_port
from tests.security.certificates import Authority

ADMIN = "admin"
PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule"


class SecuredKafka(KafkaService):
    """A broker with listeners for SASL_SSL, SSL with client certificates, and SASL_PLAINTEXT.

    `passwords` are the SCRAM users; `admin` and the broker's own certificate are super users.
    """

    def __init__(self, directory: Path, authority: Authority, passwords: Mapping[str, str]) -> None:
        super().__init__(directory, die_with_parent=CAN_DIE_WITH_PARENT)
        self.authority = authority
        self.passwords = {ADMIN: "admin-password", **passwords}
        self._certificate = authority.issue("broker")
        self._expired = authority.issue("expired-broker", expired=True)
        self._ssl_port, self._sasl_port, self._expired_port = (free_port() for _ in range(3))

    def connection(
        self,
        user: str,
        *,
        password: str | None = None,
        mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512,
    ) -> KafkaConnection:
        """Return a connection with TLS and the credentials of a user."""
        return KafkaConnection(
            bootstrap_servers=self.bootstrap_servers,
            tls=Tls(ca_file=self.authority.file),
            sasl=self._sasl(user, password, mechanism),
        )

    def ssl_connection(self, name: str) -> KafkaConnection:
        """Return a connection with TLS and a client certificate."""
        files = self.authority.issue(name)
        own = ClientCertificate(certificate_file=files.certificate, key_file=files.key)
        return KafkaConnection(
            bootstrap_servers=f"{LOOPBACK}:{self._ssl_port}",
            tls=Tls(ca_file=self.authority.file, client_certificate=own),
        )

    def sasl_connection(self, user: str) -> KafkaConnection:
        """Return a connection with the credentials of a user, without TLS."""
        return KafkaConnection(
            bootstrap_servers=f"{LOOPBACK}:{self._sasl_port}",
            sasl=self._sasl(user, None, SaslMechanism.SCRAM_SHA_512),
        )

    def expired_connection(self) -> KafkaConnection:
        """Return a connection to a listener whose certificate has expired."""
        return KafkaConnection(
            bootstrap_servers=f"{LOOPBACK}:{self._expired_port}",
            tls=Tls(ca_file=self.authority.file),
        )

    def _sasl(self, user: str, password: str | None, mechanism: SaslMechanism) -> Sasl:
        secret = SecretStr(self.passwords.get(user, "") if password is None else password)
        return Sasl(username=user, password=secret, mechanism=mechanism)

    def _is_answering(self) -> bool:
        with contextlib.suppress(BusError):
            asyncio.run(partition_counts(self.sasl_connection(ADMIN)))
            return True
        return False

    def _format_options(self) -> list[str]:
        return [
            word
            for user, password in self.passwords.items()
            for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256")
            for word in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
        ]

    def _properties(self) -> dict[str, str]:
        plain_users = " ".join(f'user_{u}="{p}"' for u, p in self.passwords.items())
        listeners = {
            "BROKER": (self._port, "SASL_SSL"),
            "MUTUAL": (self._ssl_port, "SSL"),
            "CLEAR": (self._sasl_port, "SASL_PLAINTEXT"),
            "EXPIRED": (self._expired_port, "SSL"),
        }
        addresses = ",".join(f"{n}://{LOOPBACK}:{port}" for n, (port, _) in listeners.items())
        protocols = ",".join(f"{n}:{protocol}" for n, (_, protocol) in listeners.items())
        controller = f"CONTROLLER://{LOOPBACK}:{self._controller_port}"
        return {
            **super()._properties(),
            "listeners": f"{addresses},{controller}",
            "advertised.listeners": addresses,
            "listener.security.protocol.map": f"{protocols},CONTROLLER:SSL",
            "inter.broker.listener.name": "MUTUAL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._certificate.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "ssl.client.auth": "required",
            "listener.name.broker.ssl.client.auth": "none",
            "listener.name.expired.ssl.client.auth": "none",
            "listener.name.expired.ssl.keystore.location": str(self._expired.both),
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
            **{
                f"listener.name.{listener}.{mechanism}.sasl.jaas.config": f"{login};"
                for listener in ("broker", "clear")
                for mechanism, login in (
                    ("scram-sha-512", f"{SCRAM_LOGIN} required"),
                    ("scram-sha-256", f"{SCRAM_LOGIN} required"),
                    ("plain", f"{PLAIN_LOGIN} required {plain_users}"),
                )
            },
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{ADMIN};User:CN=broker",
        }
