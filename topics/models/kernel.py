"""Compile work, its outcome, and where a finished kernel lies."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from esper.topics.models.blueprint import Blueprint
from esper.topics.models.event import Count, Event, Identifier, Sha256
from esper.topics.models.run import SiteSignature

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
    """What the validator measured on the very bytes that were published.

    `flops` and `activation_bytes` follow from the plan, for one sample going forward. Times are
    medians over a batch of `batch` on `device`, `peak_bytes` the most that was live going forward
    and back beyond weights and inputs. `host_*` are the same of a layer as the site's host would
    have, measured in turn; absent where that layer is too large to measure. `causal` is whether a
    sequence's value at a position was seen to depend on later ones: absent for other kinds.
    """

    params: Count
    bytes: Count
    flops: Count
    activation_bytes: Count
    forward_ms: Milliseconds
    backward_ms: Milliseconds
    peak_bytes: Count
    batch: Annotated[int, Field(ge=1)]
    device: Literal["cpu", "cuda"]
    host_forward_ms: Milliseconds | None = None
    host_backward_ms: Milliseconds | None = None
    host_peak_bytes: Count | None = None
    causal: bool | None = None


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


class KernelCost(Event):
    """What a kernel costs to run, for a selector that weighs it.

    `flops` are those of one sample, forward. The ratios are kernel ÷ host layer, of the time
    forward and backward and of the peak of memory; absent where no host layer was measured.
    """

    flops: Count
    latency_ratio: Annotated[float, Field(ge=0)] | None = None
    memory_ratio: Annotated[float, Field(ge=0)] | None = None


class KernelReady(Event):
    """A kernel anyone may load: where it lies, and everything needed to refuse a forgery.

    `ed25519_signature` is the hexadecimal signature of the artifact's bytes by this deployment.
    `cost` is absent from what earlier versions announced.
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
    cost: KernelCost | None = None
