"""A report of a run: the trainer puts everything into it that a decision may depend on."""

from enum import StrEnum
from typing import Annotated

from pydantic import AliasChoices, Field, StringConstraints

from esper.topics.models.audition import AuditionResult
from esper.topics.models.event import Count, Event, Identifier, PositiveCount, Sha256, SiteName
from esper.topics.models.kernel import KernelCost
from esper.topics.models.omit_default import OmitDefault
from esper.topics.models.request import RunRequest
from esper.topics.models.run import PolicySpec
from esper.topics.models.selection import MemorySnapshot, Selection, SiteFacts


class SeedState(StrEnum):
    """The lifecycle of a seed; `esper.seed.states` holds the legal transitions."""

    DORMANT = "dormant"
    LOADING = "loading"
    BLENDING = "blending"
    ACTIVE = "active"
    FOSSILIZED = "fossilized"
    CULLED = "culled"
    ROLLED_BACK = "rolled_back"


class LoadableKernel(Event):
    """A kernel that the trainer has verified and can plant at a site from this report on."""

    kernel_id: Sha256
    site: SiteName
    blueprint_id: Identifier
    category: Identifier
    params: Count
    cost: OmitDefault[KernelCost | None] = None


class SeedStatus(Event):
    """One seed that is not dormant.

    `contribution` is probe loss without the seed minus probe loss with it, for equal weights and
    the same batch; None where it was not measured.
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
    """What the trainer did with a decision; a dry run withholds all decisions."""

    APPLIED = "applied"
    REFUSED = "refused"
    WITHHELD = "withheld"


class DecisionOutcome(Event):
    """The trainer's answer to one decision.

    `latency_ms` is from the timestamp of the decision's record to the end of its application.
    """

    decision_id: Sha256
    status: OutcomeStatus
    step: Count
    reason: Annotated[str, StringConstraints(max_length=500)] | None = None
    latency_ms: float | None = None


class IncidentKind(StrEnum):
    """Why the governor intervened."""

    NAN = "nan"
    DIVERGENCE = "divergence"
    COLLAPSE = "collapse"


class RolledBackSeed(Event):
    """A seed that the governor rolled back, and the decision that had planted it."""

    site: SiteName
    slot: Count
    kernel_id: Sha256
    decision_id: Sha256


class Incident(Event):
    """An intervention of the governor after the optimizer's step `step`.

    `loss` is the training loss that triggered it, None if not finite. `restored_step` is the step
    of the snapshot that weights and optimizer were restored to, None if nothing was restored.
    Without `seeds` no kernel was on trial: the host caused the incident and was left unchanged.
    """

    kind: IncidentKind
    step: Count
    loss: float | None = None
    restored_step: Count | None = None
    seeds: tuple[RolledBackSeed, ...] = ()


class KernelRefusal(Event):
    """An announced kernel that the trainer rejected: missing, altered, forged or incompatible."""

    kernel_id: Sha256
    reason: Annotated[str, StringConstraints(max_length=500)]


class RunConfig(Event):
    """The constants of a run, from which the fold's first state is made; part of the first report.

    In a `lockstep` run the trainer waits for the answer to each report, so each report gets one.
    Without a `selection`, the defaults apply, but no dormant time and no priors. `contract` is the
    major version of the contract that names the fields of the run's decisions. A decision lists the
    best `listed_candidates` candidates and those that it plants; without a number, as in runs of
    earlier versions, all.
    """

    seed: Count
    slots: dict[SiteName, Annotated[int, Field(ge=1, le=64)]]
    policy: PolicySpec
    host_params: Count
    report_interval_steps: PositiveCount
    lockstep: OmitDefault[bool] = False
    sites: OmitDefault[dict[SiteName, SiteFacts]] = {}
    selection: OmitDefault[Selection | None] = None
    memory: OmitDefault[MemorySnapshot | None] = None
    contract: OmitDefault[PositiveCount] = 2
    listed_candidates: OmitDefault[PositiveCount | None] = None


class SeedReport(Event):
    """The state of a run at one step.

    `seq` counts the reports of a run from 0 without gaps. `run_config` is present exactly when seq
    is 0; contract 2 called the field `opening`, and that name is still read. `kernels`, `refusals`,
    `outcomes`, `incidents`, `requests` and `auditions` hold the news since the last report: kernels
    that became loadable, kernels that were rejected, answers to decisions, interventions of the
    governor, requests of people and results of auditions. Losses are means per sample; None means
    not measured or not finite. `gradients` maps a site to the norm of the loss gradient of the host
    layer's parameters in the previous step. While `paused`, the trainer accepts no decision.
    `refused_decisions` counts the records on the decision topic that the trainer has refused since
    the last report, because they were not its bandit worker's.
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
    auditions: OmitDefault[tuple[AuditionResult, ...]] = ()
    refused_decisions: OmitDefault[Count] = 0
    closing: bool = False
