"""One report of a run: everything a decision may depend on, because the trainer put it there."""

from enum import StrEnum
from typing import Annotated

from pydantic import AliasChoices, Field, StringConstraints

from esper.topics.models.event import Count, Event, Identifier, Sha256, SiteName
from esper.topics.models.kernel import KernelCost
from esper.topics.models.omit_default import OmitDefault
from esper.topics.models.request import RunRequest
from esper.topics.models.run import PolicySpec
from esper.topics.models.selection import MemorySnapshot, Selection, SiteFacts


class SeedState(StrEnum):
    """Where a seed is in its life; `esper.seed.states` holds the legal transitions."""

    DORMANT = "dormant"
    LOADING = "loading"
    BLENDING = "blending"
    ACTIVE = "active"
    FOSSILIZED = "fossilized"
    CULLED = "culled"
    ROLLED_BACK = "rolled_back"


class LoadableKernel(Event):
    """A kernel that the trainer holds, verified, and could plant at a site from now on.

    Where `cost` is absent it is left out of the bytes, which are then those of earlier versions:
    states with such kernels keep their digests.
    """

    kernel_id: Sha256
    site: SiteName
    blueprint_id: Identifier
    category: Identifier
    params: Count
    cost: OmitDefault[KernelCost | None] = None


class SeedStatus(Event):
    """One seed that is not dormant.

    `contribution` is probe loss without the seed minus probe loss with it, same weights and same
    batch; None where it was not measured.
    """

    site: SiteName
    slot: Count
    state: SeedState
    kernel_id: Sha256 | None = None
    blueprint_id: Identifier | None = None
    alpha: float = 0.0
    params: Count = 0
    age_steps: Count = 0
    contribution: float | None = None


class OutcomeStatus(StrEnum):
    """What became of a decision in the trainer; a dry run withholds them all."""

    APPLIED = "applied"
    REFUSED = "refused"
    WITHHELD = "withheld"


class DecisionOutcome(Event):
    """Answer to one decision; `latency_ms` is from the decision's record to its taking effect."""

    decision_id: Sha256
    status: OutcomeStatus
    step: Count
    reason: Annotated[str, StringConstraints(max_length=500)] | None = None
    latency_ms: float | None = None


class IncidentKind(StrEnum):
    """What made the governor step in."""

    NAN = "nan"
    DIVERGENCE = "divergence"
    COLLAPSE = "collapse"


class RolledBackSeed(Event):
    """A seed that an incident took out, and the decision that had planted it."""

    site: SiteName
    slot: Count
    kernel_id: Sha256
    decision_id: Sha256


class Incident(Event):
    """The governor stepped in after the optimizer's step `step`.

    `loss` is the training loss that made it, None where that was not finite; `restored_step` the
    step as of which weights and optimizer are again, None where nothing was restored. Without
    seeds nothing was on trial: the host did it by itself, and was left alone.
    """

    kind: IncidentKind
    step: Count
    loss: float | None = None
    restored_step: Count | None = None
    seeds: tuple[RolledBackSeed, ...] = ()


class KernelRefusal(Event):
    """A kernel on offer that the trainer would not take: missing, altered, forged or unfit."""

    kernel_id: Sha256
    reason: Annotated[str, StringConstraints(max_length=500)]


class RunConfig(Event):
    """What the first report adds: the run's constants, all that seeds the fold's state.

    In a `lockstep` run the trainer waits for the answer to each report, so every report gets one.
    Without a `selection` the run is decided as runs were before there was one. What is absent is
    left out of the bytes.
    """

    seed: Count
    slots: dict[SiteName, Annotated[int, Field(ge=1, le=64)]]
    policy: PolicySpec
    host_params: Count
    report_interval_steps: Annotated[int, Field(ge=1)]
    lockstep: OmitDefault[bool] = False
    sites: OmitDefault[dict[SiteName, SiteFacts]] = {}
    selection: OmitDefault[Selection | None] = None
    memory: OmitDefault[MemorySnapshot | None] = None


class SeedReport(Event):
    """A run as of one step.

    `seq` counts the reports of a run from 0 without holes; `run_config` is present exactly when seq
    is 0. `kernels` and `refusals` list what became loadable, or was refused, since the last
    report, `outcomes` what decisions came to since then. Losses are means per sample; None means
    not measured or not finite. `gradients` are, by site, the norm of the loss gradient of the host
    layer's parameters in the step before; where none were measured they are left out of the bytes.
    `incidents` are what the governor did since the last report; without any they are left out.
    `paused` is whether the trainer wants nothing decided, `requests` what people asked of the run
    since the last report; both are left out where there is nothing to say.
    """

    run_id: Identifier
    seq: Count
    step: Count
    train_loss: float | None = None
    probe_loss: float | None = None
    run_config: Annotated[
        RunConfig | None, Field(validation_alias=AliasChoices("run_config", "opening"))
    ] = None
    kernels: tuple[LoadableKernel, ...] = ()
    refusals: tuple[KernelRefusal, ...] = ()
    seeds: tuple[SeedStatus, ...] = ()
    outcomes: tuple[DecisionOutcome, ...] = ()
    gradients: OmitDefault[dict[SiteName, Annotated[float, Field(ge=0)]]] = {}
    incidents: OmitDefault[tuple[Incident, ...]] = ()
    paused: OmitDefault[bool] = False
    requests: OmitDefault[tuple[RunRequest, ...]] = ()
    closing: bool = False
