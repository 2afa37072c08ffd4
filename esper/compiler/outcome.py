"""How one attempt to build a kernel ended, and its bytes between a compiling process and ours.

The bytes are one line of JSON and then the artifact, so that what comes back from a process
that ran a stranger's blueprint is data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from esper.blueprint.rejection import RejectionCode
from topics.models import Characterisation

TimingsMs = Mapping[str, float]
"""Milliseconds by step: compile, optimize, serialise, validate."""


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel: its bytes as validated, their SHA-256, and what was measured."""

    artifact: bytes
    sha256: str
    characterisation: Characterisation
    timings_ms: TimingsMs


@dataclass(frozen=True, slots=True)
class Rejected:
    """No kernel, and why; the steps that were reached have timings."""

    code: RejectionCode
    reason: str
    timings_ms: TimingsMs = field(default_factory=dict)


Outcome = Built | Rejected


def to_bytes(outcome: Outcome) -> bytes:
    """Return an outcome as bytes."""
    match outcome:
        case Built(artifact, sha256, characterisation, timings_ms):
            header: dict[str, object] = {
                "sha256": sha256,
                "characterisation": characterisation.model_dump(),
                "timings_ms": timings_ms,
            }
        case Rejected(code, reason, timings_ms):
            header, artifact = {"code": code, "reason": reason, "timings_ms": timings_ms}, b""
    return orjson.dumps(header) + b"\n" + artifact


def from_bytes(value: bytes) -> Outcome:
    """Return the outcome that `to_bytes` wrote.

    Raises:
        ValueError: it wrote no such thing.
    """
    line, _, artifact = value.partition(b"\n")
    header = orjson.loads(line)
    if "code" in header:
        return Rejected(RejectionCode(header["code"]), header["reason"], header["timings_ms"])
    measured = Characterisation.model_validate(header["characterisation"])
    return Built(artifact, header["sha256"], measured, header["timings_ms"])
