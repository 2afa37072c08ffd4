"""Requests to compile a kernel, the results, and the location of a finished kernel."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from esper.topics.models.blueprint import Blueprint
from esper.topics.models.event import Count, Event, Identifier, PositiveCount, Sha256
from esper.topics.models.omit_default import OmitDefault
from esper.topics.models.run import SiteSignature

Milliseconds = Annotated[float, Field(ge=0)]


class KernelRequested(Event):
    """One unit of compile work: a blueprint, a site signature and a pipeline."""

    kernel_id: Sha256
    blueprint: Blueprint
    site_signature: SiteSignature
    pipeline: Literal["plan"] = "plan"


class CompileStatus(StrEnum):
    """The beginning or the result of one attempt to compile."""

    STARTED = "started"
    READY = "ready"
    REJECTED = "rejected"


class Characterisation(Event):
    """The validator's measurements of the published bytes.

    `flops` and `activation_bytes` are computed from the plan, for one sample, forward only. Times
    are medians for a batch of `batch` samples on `device`. `peak_bytes` is the peak memory of
    forward and backward without weights and inputs. `host_*` are the same measurements of a layer
    like the site's host layer; absent where that layer is too large to measure. `causal` is whether
    outputs at a position are independent of later positions; absent for kinds other than sequences.
    """

    params: Count
    bytes: Count
    flops: Count
    activation_bytes: Count
    forward_ms: Milliseconds
    backward_ms: Milliseconds
    peak_bytes: Count
    batch: PositiveCount
    device: Literal["cpu", "cuda"]
    host_forward_ms: Milliseconds | None = None
    host_backward_ms: Milliseconds | None = None
    host_peak_bytes: Count | None = None
    causal: bool | None = None


class KernelCompiled(Event):
    """One attempt to compile: started, then ready with measurements or rejected with a reason.

    `site_signature` is absent where the planner refused the blueprint for all sites. `attempt`
    counts from 1 since the kernel was last ready; `worker` made the attempt. `reason` of a started
    attempt is why the previous one failed, if known. `repeated` answers a further request for a
    rejected kernel, without a new attempt.
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
    attempt: OmitDefault[PositiveCount | None] = None
    worker: OmitDefault[Annotated[str, StringConstraints(max_length=200)] | None] = None
    repeated: OmitDefault[bool] = False


class KernelCost(Event):
    """The cost of running a kernel, as the bandit's policies use it.

    `flops` are of one sample, forward only. The ratios are kernel ÷ host layer, of the time of
    forward and backward and of peak memory; absent where no host layer was measured.
    """

    flops: Count
    latency_ratio: Annotated[float, Field(ge=0)] | None = None
    memory_ratio: Annotated[float, Field(ge=0)] | None = None


Ed25519Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
"""A signature in lower-case hexadecimal."""


class KernelReady(Event):
    """A kernel that trainers may load: its location, and what is needed to detect a forgery.

    `ed25519_signature` is this deployment's signature of all other fields (see
    `esper.kernel.sign_announcement`); `sha256` among them covers the artifact's bytes. `cost` is
    absent from records of earlier contracts.
    """

    kernel_id: Sha256
    blueprint_id: Identifier
    category: Identifier
    site_signature: SiteSignature
    location: Annotated[str, StringConstraints(max_length=500)]
    sha256: Sha256
    ed25519_signature: Ed25519Signature
    bytes: Count
    params: Count
    cost: KernelCost | None = None


class KernelRevoked(Event):
    """An artifact that no trainer may load any more, by its SHA-256.

    `ed25519_signature` is this deployment's signature of the other fields.
    """

    sha256: Sha256
    reason: Annotated[str, StringConstraints(max_length=500)]
    ed25519_signature: Ed25519Signature
