"""How Kafka is reached: addresses, TLS and credentials. All clients are built from one value.

This module needs no Kafka client; `esper.topics.bus` turns a connection into options of its client.
"""

from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

from esper.topics.secret import Secret


class SecurityProtocol(StrEnum):
    """Kafka's `security.protocol`."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        """Whether the client logs in with a user name and a password."""
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


class SaslMechanism(StrEnum):
    """Kafka's `sasl.mechanism`; PLAIN sends the password itself, so use it over TLS only."""

    SCRAM_SHA_512 = "SCRAM-SHA-512"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    PLAIN = "PLAIN"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class ClientCertificate(_Frozen):
    """The certificate chain and the unencrypted key of a client, as PEM files, for mutual TLS."""

    certificate_file: Path
    key_file: Path


class Tls(_Frozen):
    """TLS: the CA that signs the brokers' certificates (default: those of the system)."""

    ca_file: Path | None = None
    client_certificate: ClientCertificate | None = None


class Sasl(_Frozen):
    """The credentials of a client."""

    username: str
    password: Secret
    mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512


class KafkaConnection(_Frozen):
    """Addresses `host:port,host:port`, and how to connect to them."""

    bootstrap_servers: str
    tls: Tls | None = None
    sasl: Sasl | None = None

    @property
    def security_protocol(self) -> SecurityProtocol:
        """Kafka's name for this combination of TLS and SASL."""
        if self.sasl is None:
            return SecurityProtocol.PLAINTEXT if self.tls is None else SecurityProtocol.SSL
        if self.tls is None:
            return SecurityProtocol.SASL_PLAINTEXT
        return SecurityProtocol.SASL_SSL

    @property
    def principal(self) -> str:
        """The name under which the broker knows this client, for messages."""
        if self.sasl is not None:
            return f"User:{self.sasl.username}"
        if self.tls is not None and self.tls.client_certificate is not None:
            return f"the subject of {self.tls.client_certificate.certificate_file}"
        return "User:ANONYMOUS"


Broker: TypeAlias = KafkaConnection | str
"""A connection, or the addresses of brokers that take connections without TLS and SASL."""


def connection_to(broker: Broker) -> KafkaConnection:
    """Return the connection to a broker."""
    return KafkaConnection(bootstrap_servers=broker) if isinstance(broker, str) else broker
