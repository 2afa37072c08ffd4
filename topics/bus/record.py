"""A consumed record: its bytes and coordinates."""

from dataclasses import dataclass
from typing import Any, Final

from esper.topics.codec import Headers


class _Marker(str):
    """A header name that no producer can send: it is compared by identity."""

    __slots__ = ()


UNREADABLE: Final = _Marker("unreadable")
"""Name of the only header of a record that could not be decoded; its value is the reason."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record's bytes and coordinates; `timestamp_ms` is the producer's time since the epoch.

    An unreadable record has its coordinates only.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def unreadable(self) -> str | None:
        """Why the record's bytes could not be decoded; None for an ordinary record."""
        if self.headers and self.headers[0][0] is UNREADABLE:
            return self.headers[0][1].decode()
        return None

    @property
    def place(self) -> str:
        """Topic, partition and offset, for messages."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

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
