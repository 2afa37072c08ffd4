"""Errors between this process and the broker."""

from collections.abc import Iterable

from esper.errors import EsperError
from esper.topics.connection import Broker, connection_to


class BusError(EsperError):
    """Base of all errors of the bus."""


class BrokerUnreachable(BusError):
    """No broker answered at the address; `remedy` replaces the usual advice."""

    def __init__(
        self,
        broker: Broker,
        remedy: str = "start one with `esper up`, or set KAFKA_BOOTSTRAP_SERVERS",
    ) -> None:
        servers = connection_to(broker).bootstrap_servers
        super().__init__(f"no Kafka broker answers at {servers}; {remedy}")


class ConnectionRefused(BusError):
    """A broker answered, and TLS or the log-in failed; it will not accept this client."""


class TlsFileUnusable(BusError):
    """A file with a certificate or a key cannot be loaded."""


class AccessDenied(BusError):
    """The broker's access control list forbids an operation; the message has the missing entry."""

    def __init__(self, broker: Broker, operation: str, kind: str, names: Iterable[str]) -> None:
        """Name the missing entry: `operation` on a resource of a `kind` ("topic" or "group")."""
        listed, principal = sorted(names), connection_to(broker).principal
        resources = " ".join(f"--{kind} {name}" for name in listed)
        super().__init__(
            f"{principal} may not {operation} {kind} {', '.join(listed)}; missing ACL: "
            f"--allow-principal {principal} --operation {operation} {resources} "
            "(`esper topics acl` lists all)"
        )


class TopicMismatch(BusError):
    """A topic does not exist, or has another partition count than the catalog's."""


class RecordTooLarge(BusError):
    """A record is larger than its topic accepts; sending it again cannot succeed."""
