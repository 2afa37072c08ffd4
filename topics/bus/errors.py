"""What can go wrong between this process and the broker."""


class BusError(Exception):
    """Base of all errors of the bus."""


class BrokerUnreachable(BusError):
    """No broker answered at the address."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(
            f"no Kafka broker answers at {bootstrap_servers}; "
            "start one with `esper up`, or set KAFKA_BOOTSTRAP_SERVERS"
        )


class TopicMismatch(BusError):
    """A topic exists with another partition count than the catalog's."""


class RecordTooLarge(BusError):
    """The broker will never take this record, however often it is sent."""
