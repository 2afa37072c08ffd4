"""Frames between a trainer and its link process: a kind, a small JSON head, and bytes."""

import struct
from enum import Enum
from socket import socket
from typing import Any, Final, NamedTuple

import orjson
from pydantic import TypeAdapter

from esper.topics.models import Audition

CHUNK_BYTES: Final = 1 << 16

AUDITIONS: Final = TypeAdapter(tuple[Audition, ...])
"""The body of an `AUDITION` frame: the auditions of one rung, as JSON."""

_LENGTHS: Final = struct.Struct(">cII")


class Kind(Enum):
    """The kind of a frame. The first six go to the process; all others come from it."""

    CONFIG = b"o"
    REPORT = b"r"
    CLOSE = b"c"
    LEAVE_OPEN = b"l"
    SNAPSHOT = b"s"
    AUDITION = b"a"

    OPENED = b"O"
    MEMORY = b"A"
    RECORDED = b"P"
    REFUSED = b"E"
    CONFIRMED = b"C"
    FAILED = b"F"
    KERNEL_VERIFIED = b"K"
    KERNEL_REFUSED = b"N"
    DECISION = b"D"
    KERNELS_PREPARED = b"B"
    KERNELS_FAILED = b"U"
    MISSING = b"M"
    REQUESTED = b"Q"
    LEFT_OPEN = b"L"
    DECISION_REFUSED = b"X"
    AUDITIONED = b"R"


class Frame(NamedTuple):
    """One message; what `head` and `body` hold depends on its kind."""

    kind: Kind
    head: dict[str, Any] = {}
    body: bytes = b""

    def packed(self) -> bytes:
        """Return the bytes that are sent."""
        head = orjson.dumps(self.head)
        return _LENGTHS.pack(self.kind.value, len(head), len(self.body)) + head + self.body


class FrameReader:
    """Splits received bytes into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes; return the frames that are complete."""
        self._bytes += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._bytes) < _LENGTHS.size:
            return None
        kind, head, body = _LENGTHS.unpack_from(self._bytes)
        middle, end = _LENGTHS.size + head, _LENGTHS.size + head + body
        if len(self._bytes) < end:
            return None
        frame = Frame(
            Kind(kind),
            orjson.loads(self._bytes[_LENGTHS.size : middle]),
            bytes(self._bytes[middle:end]),
        )
        del self._bytes[:end]
        return frame


def receive(link: socket, reader: FrameReader) -> list[Frame] | None:
    """Wait for bytes and return the complete frames; None once the other end is closed."""
    try:
        data = link.recv(CHUNK_BYTES)
    except ConnectionError:
        return None
    return reader.feed(data) if data else None
