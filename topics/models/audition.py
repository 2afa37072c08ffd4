"""Auditions: requests to train a kernel away from the training path, and what came of them."""

from typing import Annotated

from pydantic import Field, StringConstraints

from esper.topics.models.event import Count, Event, Identifier, PositiveCount, Sha256, SiteName
from esper.topics.models.kernel import KernelReady

MAX_AUDITIONED = 2000
"""Kernels that one round may audition: their results must fit into a report and a state."""

MAX_TARGETS = 16
"""Sites that one request names: a worker trains the kernel at all of them together."""

MAX_CURVE = 64
MAX_PARTS = 16

Reason = Annotated[str, StringConstraints(max_length=500)]


class Audition(Event):
    """Train kernels of one site on a snapshot of it, for `steps` steps in all.

    `rung` counts the rungs of successive halving from 0. `snapshot_id` is the id of the decision
    that asked for the snapshot: that of this decision in rung 0.
    """

    site: SiteName
    kernel_ids: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=MAX_AUDITIONED)]
    rung: Count
    steps: PositiveCount
    snapshot_id: Sha256


class SnapshotArtifact(Event):
    """Where the parts of a site's snapshot are stored, in order; `sha256` is that of the whole.

    `step` is the training step of its last samples.
    """

    locations: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=200)], ...],
        Field(min_length=1, max_length=MAX_PARTS),
    ]
    sha256: Sha256
    bytes: PositiveCount
    samples: PositiveCount
    step: Count


class AuditionTarget(Event):
    """One site at which a kernel is to be auditioned; the id names the result."""

    audition_id: Sha256
    site: SiteName
    snapshot: SnapshotArtifact


class AuditionRequested(Event):
    """One kernel to train at sites of one signature, on a snapshot of each.

    `seed` seeds the weights and the batches, which are the same at every site.
    """

    run_id: Identifier
    kernel_id: Sha256
    kernel: KernelReady
    targets: Annotated[tuple[AuditionTarget, ...], Field(min_length=1, max_length=MAX_TARGETS)]
    rung: Count
    steps: PositiveCount
    seed: Count


class AuditionResult(Event):
    """What an audition found.

    `gain` is the mean fall of the held-out loss per sample, less what the host would have learnt
    alone, `error` its standard error, and `slope` the gain per step over the last half of the
    steps. `control_gain` is the gain of a path like the host's own layer, for the same steps.
    `trained_sha256` names the artifact of the trained weights, whose last step is zero. Without a
    gain, `reason` says why.
    """

    site: SiteName
    kernel_id: Sha256
    rung: Count
    steps: PositiveCount
    gain: float | None = None
    error: Annotated[float, Field(ge=0)] | None = None
    slope: float | None = None
    control_gain: float | None = None
    trained_sha256: Sha256 | None = None
    reason: Reason | None = None


class CurvePoint(Event):
    """The gain of an audition after some of its steps."""

    step: Count
    gain: float


class KernelAuditioned(AuditionResult):
    """The result of one audition; the signature covers the whole value.

    `seconds` is the time of the training, `cpu_seconds` the CPU
    time of it.
    """

    audition_id: Sha256
    run_id: Identifier
    host_loss: float | None = None
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=MAX_CURVE)] = ()
    seconds: Annotated[float, Field(ge=0)] = 0.0
    cpu_seconds: Annotated[float, Field(ge=0)] = 0.0
    worker: Annotated[str, StringConstraints(max_length=200)] = ""

    def result(self) -> AuditionResult:
        """Return the part that a report carries."""
        names = AuditionResult.model_fields
        return AuditionResult(**{name: getattr(self, name) for name in names})
