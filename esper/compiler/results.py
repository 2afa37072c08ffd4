"""The results of building a kernel and of its two stages, and their encoding as bytes.

The bytes are one line of JSON followed by the artifact: processes that run untrusted blueprints
return data, never pickles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from esper.blueprint import RejectionCode
from esper.topics.models import Characterisation

TimingsMs = Mapping[str, float]
"""Milliseconds by step; `a.b` is a part of `a`."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The artifact of a kernel that has not been run."""

    artifact: bytes
    timings_ms: TimingsMs


@dataclass(frozen=True, slots=True)
class Validated:
    """The SHA-256 and the measurements of an artifact that passed validation."""

    sha256: str
    characterisation: Characterisation
    timings_ms: TimingsMs


@dataclass(frozen=True, slots=True)
class Rejected:
    """The code and the reason of a rejection, with timings of the completed steps."""

    code: RejectionCode
    reason: str
    timings_ms: TimingsMs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel: the validated artifact, its SHA-256, and its measurements."""

    artifact: bytes
    sha256: str
    characterisation: Characterisation
    timings_ms: TimingsMs


BuildResult = Built | Rejected
StageResult = Compiled | Validated | Rejected


def to_bytes(outcome: StageResult) -> bytes:
    """Return the result of a stage as bytes."""
    artifact = b""
    header: dict[str, object] = {"timings_ms": outcome.timings_ms}
    match outcome:
        case Compiled(artifact=artifact):
            pass
        case Validated(sha256, characterisation):
            header |= {"sha256": sha256, "characterisation": characterisation.model_dump()}
        case Rejected(code, reason):
            header |= {"code": code, "reason": reason}
    return orjson.dumps(header) + b"\n" + artifact


def from_bytes(value: bytes) -> StageResult:
    """Return the result that `to_bytes` encoded.

    Raises:
        ValueError: the bytes are not from `to_bytes`.
    """
    line, _, artifact = value.partition(b"\n")
    header = orjson.loads(line)
    timings_ms = header["timings_ms"]
    if "code" in header:
        return Rejected(RejectionCode(header["code"]), header["reason"], timings_ms)
    if "sha256" in header:
        measured = Characterisation.model_validate(header["characterisation"])
        return Validated(header["sha256"], measured, timings_ms)
    return Compiled(artifact, timings_ms)


def built(compiled: Compiled, validated: Validated, waits_ms: TimingsMs) -> Built:
    """Return the kernel of two stages, with the timings of both and the waits between them."""
    timings_ms = {**compiled.timings_ms, **validated.timings_ms, **waits_ms}
    return Built(compiled.artifact, validated.sha256, validated.characterisation, timings_ms)
