"""Find out why a broker accepts no client: the library's clients only say that none connected."""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from esper.topics.bus.errors import (
    AccessDenied,
    BrokerUnreachable,
    BusError,
    ConnectionRefused,
)
from esper.topics.bus.security import client_options
from esper.topics.connection import Broker, KafkaConnection, connection_to

ATTEMPT_TIMEOUT_S: Final = 3.0

CHECK_PERIOD_S: Final = 10.0

UNTRUSTED_CA: Final = frozenset({18, 19, 20, 21})
EXPIRED: Final = 10
WRONG_HOST: Final = frozenset({62, 64})
"""OpenSSL's verification errors, X509_V_ERR_*."""


def refusal_in(broker: Broker, error: BaseException | None) -> BusError | None:
    """Return the refusal of a broker that caused an error, None if another thing did."""
    match error:
        case None:
            return None
        case AccessDenied() | ConnectionRefused():
            return error
        case BaseExceptionGroup():
            found = (refusal_in(broker, one) for one in error.exceptions)
            return next(filter(None, found), None)
        case TopicAuthorizationFailedError():
            # Esper's producer raises AccessDenied; this one comes from a consumer.
            return AccessDenied(broker, "Read", "topic", _names(error))
        case GroupAuthorizationFailedError():
            return AccessDenied(broker, "Read", "group", _names(error))
    cause = error.__cause__
    if isinstance(cause, TopicAuthorizationFailedError):  # of a table's write
        return AccessDenied(broker, "Write", "topic", _names(cause))
    return refusal_in(broker, cause)


def _names(error: KafkaError) -> list[str]:
    """Return the topics or the group that an authorization error names."""
    found = error.args[0] if error.args else "?"
    return [found] if isinstance(found, str) else sorted(found)


async def why_unconnected(broker: Broker) -> BusError:
    """Connect once to each address; return a refusal, or else that no broker answers."""
    connection = connection_to(broker)
    remedies = []
    for address in connection.bootstrap_servers.split(","):
        try:
            (await _open(connection, address)).close()
        except (OSError, KafkaError, ValueError) as error:
            if (reason := _refusal(connection, error)) is not None:
                return ConnectionRefused(f"Kafka at {address.strip()}: {reason}")
            # It was accepted first: a broker that is away refuses with ConnectionRefusedError.
            # A broker that is starting does the same, so this is no refusal.
            if isinstance(error, (ssl.SSLError, KafkaConnectionError, ConnectionResetError)):
                remedies.append(_mismatch(connection))
    return BrokerUnreachable(connection, *remedies[:1])


async def refused(broker: Broker) -> ConnectionRefused:
    """Return the refusal of a broker once it refuses this client; wait for ever if it never does.

    The library's clients retry silently, also after a password was changed.
    """
    while True:
        await asyncio.sleep(CHECK_PERIOD_S)
        if isinstance(error := await why_unconnected(broker), ConnectionRefused):
            return error


async def forbidden_topics(broker: Broker, names: Iterable[str]) -> list[str]:
    """Return the topics that this client may not even describe; to it they look missing."""
    connection, wanted = connection_to(broker), list(names)
    for address in connection.bootstrap_servers.split(","):
        try:
            opened = await _open(connection, address)
        except (OSError, KafkaError, ValueError):
            continue
        try:
            answer = await opened.send(MetadataRequest(wanted, allow_auto_topic_creation=False))
        finally:
            opened.close()
        denied = TopicAuthorizationFailedError.errno
        return [t["topic"] for t in answer.to_object()["topics"] if t["error_code"] == denied]
    return []


async def _open(connection: KafkaConnection, address: str) -> AIOKafkaConnection:
    """Return a connection on which the broker has answered a request, after the log-in."""
    host, _, port = address.strip().rpartition(":")
    options = client_options(connection)
    del options["bootstrap_servers"]
    async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
        opened = await create_conn(host, int(port), **options)
        try:
            await opened.send(MetadataRequest([]))
        except BaseException:
            opened.close()
            raise
    return opened


def _refusal(connection: KafkaConnection, error: Exception) -> str | None:
    """Return what failed and the remedy; None unless the broker can never accept this client."""
    # In TLS 1.3 a broker refuses a client's certificate after the handshake.
    match error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error:
        case ssl.SSLCertVerificationError() as invalid:
            return _certificate_reason(connection, invalid)
        case ssl.SSLError(reason=str(reason)) if "CERTIFICATE" in reason:
            return (
                f"it refuses this client's certificate ({reason}); set "
                "KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE to a valid certificate of its CA"
            )
        case SaslAuthenticationFailed():
            return (
                f"it refuses {connection.principal} or the password; check KAFKA_SASL_USERNAME, "
                "the file of KAFKA_SASL_PASSWORD_FILE and KAFKA_SASL_MECHANISM"
            )
        case UnsupportedSaslMechanismError():
            mechanism = connection.sasl.mechanism if connection.sasl else None
            return f"it does not offer {mechanism}; set KAFKA_SASL_MECHANISM to one that it offers"
        case IllegalSaslStateError():
            return "it takes no log-in here; set KAFKA_SECURITY_PROTOCOL as the listener's"
        case ValueError() if connection.sasl is not None:
            return "it does not know the password that it asks for; do not trust this broker"
    return None


def _certificate_reason(connection: KafkaConnection, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == EXPIRED:
        return "its certificate has expired; renew the broker's certificate"
    if error.verify_code in UNTRUSTED_CA:
        ca_file = connection.tls.ca_file if connection.tls else None
        ca = f"the CA in {ca_file}" if ca_file else "a CA of this system"
        return f"its certificate is not of {ca}; set KAFKA_SSL_CA_FILE to the CA of the brokers"
    if error.verify_code in WRONG_HOST:
        return "its certificate names another host; use the name in it, or renew it"
    return f"its certificate is invalid ({error.verify_message}); renew the broker's certificate"


def _mismatch(connection: KafkaConnection) -> str:
    return (
        f"the port closes connections of {connection.security_protocol}: "
        "set KAFKA_SECURITY_PROTOCOL as the listener's"
    )
