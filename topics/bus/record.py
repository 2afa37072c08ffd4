"""A consumed record: its bytes and coordinates."""

from dataclasses import dataclass
from typing import Any

from esper.topics.codec import Headers


@dataclass(frozen=True, slots=True)
class Record:
    """A record's bytes and coordinates; `timestamp_ms` is the producer's time since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @classmethod
    def from_client(cls, message: Any) -> "Record":
        """Return the record of a message of the Kafka library."""
        return cls(
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp_ms=message.timestamp,
            key=message.key,
            value=message.value,
            headers=tuple(message.headers),
        )
