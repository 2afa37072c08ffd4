"""How an attempt to build a kernel ended, and what its two steps hand to each other as bytes.

The bytes are one line of JSON and then the artifact, so that what comes back from a process
that ran a stranger's blueprint is data.
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
    """The bytes of a kernel that nobody has run yet."""

    artifact: bytes
    timings_ms: TimingsMs


@dataclass(frozen=True, slots=True)
class Validated:
    """What was measured on bytes that keep every promise of a kernel, and their SHA-256."""

    sha256: str
    characterisation: Characterisation
    timings_ms: TimingsMs


@dataclass(frozen=True, slots=True)
class Rejected:
    """No kernel, and why; the steps that were reached have timings."""

    code: RejectionCode
    reason: str
    timings_ms: TimingsMs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """A kernel: its bytes as validated, their SHA-256, and what was measured."""

    artifact: bytes
    sha256: str
    characterisation: Characterisation
    timings_ms: TimingsMs


BuildResult = Built | Rejected
StageResult = Compiled | Validated | Rejected


def to_bytes(outcome: StageResult) -> bytes:
    """Return the outcome of a step as bytes."""
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
    """Return the outcome that `to_bytes` wrote.

    Raises:
        ValueError: it wrote no such thing.
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
    """Return the kernel that two steps made, with the timings of both and of the ways between."""
    timings_ms = {**compiled.timings_ms, **validated.timings_ms, **waits_ms}
    return Built(compiled.artifact, validated.sha256, validated.characterisation, timings_ms)
