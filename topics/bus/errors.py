"""Errors between this process and the broker."""

from esper.errors import EsperError


class BusError(EsperError):
    """Base of all errors of the bus."""


class BrokerUnreachable(BusError):
    """No broker answered at the address."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(
            f"no Kafka broker answers at {bootstrap_servers}; "
            "start one with `esper up`, or set KAFKA_BOOTSTRAP_SERVERS"
        )


class TopicMismatch(BusError):
    """A topic does not exist, or has another partition count than the catalog's."""


class RecordTooLarge(BusError):
    """A record is larger than its topic accepts; sending it again cannot succeed."""
