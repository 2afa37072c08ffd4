"""A record that differs from the derived one, and the description of the difference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from esper.topics.bus import Record
from esper.topics.codec import decode, sha256_of
from esper.topics.models import Event

MAX_SHOWN = 100
"""Most characters shown of a value that differs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The first invalid record, and the fault."""

    topic: str
    partition: int
    offset: int
    what: str

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}: {self.what}"


class Different(Exception):
    """A record is not the derived one."""

    def __init__(self, record: Record, what: str) -> None:
        super().__init__(what)
        self.finding = Finding(record.topic, record.partition, record.offset, what)


class Derived(NamedTuple):
    """The value of a record that the fold gives, and the report that leads to it."""

    value: bytes
    report: Record


def check_digest(record: Record) -> None:
    """Compare the value with the digest that its producer sent as event id in the headers.

    Raises:
        Different: they differ.
    """
    event_id = dict(record.headers).get("ce_id")
    if event_id not in (None, sha256_of(record.value or b"").encode()):
        raise Different(record, "the value is not the published one: its digest differs from ce_id")


def difference(model: type[Event], expected: bytes, found: bytes) -> str:
    """Return a description of the first field that differs between two events of a model."""
    ours = decode(model, expected).model_dump(mode="json")
    theirs = decode(model, found).model_dump(mode="json")
    for where, derived, recorded in _differing(ours, theirs, ""):
        return f"{where} is {_shown(recorded)}, the fold gives {_shown(derived)}"
    return "the fields are equal, the bytes are not"


def _differing(ours: Any, theirs: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path of every difference between two JSON values, with both sides."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for name in ours:
            yield from _differing(ours[name], theirs[name], f"{where}.{name}" if where else name)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (own, their) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differing(own, their, f"{where}[{index}]")
    elif ours != theirs:
        yield where, ours, theirs


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
