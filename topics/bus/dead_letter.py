"""The key and headers of a dead letter, cut so that it can always be sent."""

from collections.abc import Iterator
from typing import Final

from esper.topics.bus.record import Record
from esper.topics.codec import Headers

MAX_REASON_CHARS: Final = 1000
MAX_KEY_BYTES: Final = 4096
MAX_HEADER_BYTES: Final = 4096
"""Bytes of one header's name and value; larger headers are left out."""

MAX_HEADERS_BYTES: Final = 64 * 1024
"""Bytes of all copied headers; the rest is left out."""


def dead_letter_key(record: Record) -> bytes | None:
    """Return the start of the record's key."""
    return None if record.key is None else record.key[:MAX_KEY_BYTES]


def dead_letter_headers(record: Record, reason: str) -> Headers:
    """Return the record's headers and those that name the reason and the record's coordinates.

    `dlq-key-bytes` and `dlq-headers-bytes` are the full sizes of a key or headers that were cut.
    """
    original = () if record.unreadable is not None else record.headers
    copied = tuple(_fitting(original))
    origin = {
        "dlq-reason": reason[:MAX_REASON_CHARS],
        "dlq-topic": record.topic,
        "dlq-partition": str(record.partition),
        "dlq-offset": str(record.offset),
    }
    if record.key is not None and len(record.key) > MAX_KEY_BYTES:
        origin["dlq-key-bytes"] = str(len(record.key))
    if len(copied) < len(original):
        origin["dlq-headers-bytes"] = str(sum(map(_size, original)))
    encoded = ((name, text.encode(errors="replace")) for name, text in origin.items())
    return (*copied, *encoded)


def _fitting(headers: Headers) -> Iterator[tuple[str, bytes]]:
    left = MAX_HEADERS_BYTES
    for header in headers:
        size = _size(header)
        if size <= min(left, MAX_HEADER_BYTES):
            left -= size
            yield header


def _size(header: tuple[str, bytes]) -> int:
    name, value = header
    return len(name.encode(errors="replace")) + len(value or b"")
