"""Compile work, its outcome, and where a finished kernel lies."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from topics.models.blueprint import Blueprint
from topics.models.event import Count, Event, Identifier, Sha256
from topics.models.run import SiteSignature

Milliseconds = Annotated[float, Field(ge=0)]


class KernelRequested(Event):
    """One unit of compile work: this blueprint, for this signature, by this pipeline."""

    kernel_id: Sha256
    blueprint: Blueprint
    site_signature: SiteSignature
    pipeline: Literal["plan"] = "plan"


class CompileStatus(StrEnum):
    """How one attempt ended."""

    READY = "ready"
    REJECTED = "rejected"


class Characterisation(Event):
    """What the validator measured on the very bytes that were published."""

    params: Count
    bytes: Count
    forward_ms: Milliseconds
    backward_ms: Milliseconds


class KernelCompiled(Event):
    """Every attempt to compile: ready with its measurements, or rejected with a reason.

    `site_signature` is absent where the blueprint was refused before any site was considered.
    """

    kernel_id: Sha256
    blueprint_id: Identifier
    status: CompileStatus
    site_signature: SiteSignature | None = None
    reason_code: Identifier | None = None
    reason: Annotated[str, StringConstraints(max_length=1000)] | None = None
    sha256: Sha256 | None = None
    characterisation: Characterisation | None = None
    timings_ms: dict[str, Milliseconds] = {}


class KernelReady(Event):
    """A kernel anyone may load: where it lies, and everything needed to refuse a forgery.

    `ed25519_signature` is the hexadecimal signature of the artifact's bytes by this deployment.
    """

    kernel_id: Sha256
    blueprint_id: Identifier
    category: Identifier
    site_signature: SiteSignature
    location: Annotated[str, StringConstraints(max_length=500)]
    sha256: Sha256
    ed25519_signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
    bytes: Count
    params: Count
