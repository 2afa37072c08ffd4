"""Events to bytes and back: canonical JSON, and CloudEvents headers in Kafka's binary mode.

Canonical JSON has sorted keys, no white space and the shortest form of numbers. Equal events have
equal bytes in every process, so that bytes can be hashed, signed and compared.
"""

import hashlib
import re
import secrets
from collections.abc import Set
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from esper.errors import EsperError
from esper.topics.models import Event

E = TypeVar("E", bound=Event)

Headers = tuple[tuple[str, bytes], ...]

TYPE_PREFIX = "esper."

SIGNATURE_HEADER = "ed25519-signature"
"""Header of signed events: the hexadecimal signature of the record's value."""

MAX_PATH_CHARS = 200
"""Most characters of a field's path in an error; a key from outside can be longer."""

TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Undecodable(EsperError, ValueError):
    """Bytes are not an event of the expected model; the message names the first invalid field."""


def encode(event: BaseModel, fields: Set[str] | None = None) -> bytes:
    """Return the canonical JSON of an event, or of some of its fields."""
    included = None if fields is None else set(fields)
    dumped = event.model_dump(mode="json", include=included)
    return orjson.dumps(dumped, option=orjson.OPT_SORT_KEYS)


def decode(model: type[E], value: bytes | None) -> E:
    """Return the event that `value` encodes.

    Raises:
        Undecodable: `value` is None, is not JSON, or does not validate as a `model`.
    """
    if value is None:
        raise Undecodable(f"{model.__name__}: the record has no value")
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        raise Undecodable(f"{model.__name__}: {_first_fault(error)}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"])[:MAX_PATH_CHARS] or "value"
    # `repr` escapes control characters, on which a terminal would act.
    where = repr(path)[1:-1]
    more = error.error_count() - 1
    return f"{where}: {first['msg']}" + (f" (and {more} more)" if more else "")


def sha256_of(value: bytes) -> str:
    """Return the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(value).hexdigest()


def digest(event: BaseModel) -> str:
    """Return the hexadecimal SHA-256 of an event's canonical JSON."""
    return sha256_of(encode(event))


def new_traceparent() -> str:
    """Return a random W3C Trace Context `traceparent` (version 00, sampled)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_traceparent(parent: str | None) -> str:
    """Return a new span's `traceparent` in the trace of `parent`, or in a new trace without one."""
    valid = TRACEPARENT.fullmatch(parent or "")
    if valid is None:
        return new_traceparent()
    return f"00-{valid[1]}-{secrets.token_hex(8)}-01"


def cloud_event_headers(
    event_type: str,
    value: bytes,
    *,
    source: str,
    traceparent: str | None = None,
    signature: str | None = None,
) -> Headers:
    """Return the headers of an event: CloudEvents 1.0, Kafka protocol binding, binary mode.

    The id is the SHA-256 of the value, so that consumers recognise a repeated record.
    """
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", sha256_of(value).encode()),
        ("ce_source", source.encode()),
        ("ce_type", f"{TYPE_PREFIX}{event_type}".encode()),
        ("content-type", b"application/json"),
        ("traceparent", (traceparent or new_traceparent()).encode()),
    )
    return headers if signature is None else (*headers, (SIGNATURE_HEADER, signature.encode()))


def traceparent_of(headers: Headers) -> str | None:
    """Return the `traceparent` header, or None."""
    return _header(headers, "traceparent")


def signature_of(headers: Headers) -> str:
    """Return the hexadecimal signature of a record's value; empty if it has none."""
    return _header(headers, SIGNATURE_HEADER) or ""


def _header(headers: Headers, wanted: str) -> str | None:
    for name, value in headers:
        if name == wanted:
            return value.decode("ascii", "replace")
    return None
