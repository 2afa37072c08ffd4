"""A decision: the operations to apply, and all that is needed to derive the decision again."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from esper.topics.models.audition import Audition
from esper.topics.models.event import (
    INT64,
    Count,
    Event,
    Identifier,
    PositiveCount,
    Sha256,
    SiteName,
)
from esper.topics.models.omit_default import OmitDefault


class Plant(Event):
    """Load a kernel into a dormant slot and raise its alpha from 0 to `alpha` within `ramp_steps`.

    `ramp` is the shape of the schedule. `trained_sha256` names the artifact with the weights to
    plant, if not the announced ones.
    """

    op: Literal["plant"] = "plant"
    site: SiteName
    slot: Count
    kernel_id: Sha256
    blueprint_id: Identifier
    alpha: Annotated[float, Field(gt=0, le=1)]
    ramp_steps: Count
    ramp: OmitDefault[Literal["linear", "cosine"]] = "linear"
    trained_sha256: OmitDefault[Sha256 | None] = None


class Cull(Event):
    """Remove the kernel of a slot from the model and the optimizer."""

    op: Literal["cull"] = "cull"
    site: SiteName
    slot: Count
    kernel_id: Sha256


class Fossilize(Event):
    """Make the kernel of a slot a permanent part of the host."""

    op: Literal["fossilize"] = "fossilize"
    site: SiteName
    slot: Count
    kernel_id: Sha256


class Reweight(Event):
    """Move the alpha of an active seed from its present value to `alpha` in `ramp_steps` steps."""

    op: Literal["reweight"] = "reweight"
    site: SiteName
    slot: Count
    kernel_id: Sha256
    alpha: Annotated[float, Field(gt=0, le=1)]
    ramp_steps: Count


Operation = Annotated[Plant | Cull | Fossilize | Reweight, Field(discriminator="op")]


class Cause(Event):
    """The report that a decision answers: its record's coordinates and its value's SHA-256."""

    topic: str
    partition: Count
    offset: Count
    seq: Count
    sha256: Sha256


class PolicyStamp(Event):
    """The policy that scored the candidates; the digest is of its parameters' canonical JSON."""

    name: Identifier
    version: Count
    params_sha256: Sha256


class Candidate(Event):
    """One arm with the policy's score; a `score` of None (an arm never tried) ranks first.

    `excluded` explains, and `constraint` names, what rules the arm out now. The prior describes
    the arm before its first trial: a mean reward, and how many trials that mean counts as.
    """

    site: SiteName
    blueprint_id: Identifier
    kernel_id: Sha256
    pulls: Count
    mean: float | None
    score: float | None
    excluded: str | None = None
    constraint: OmitDefault[Identifier | None] = None
    prior_weight: OmitDefault[float | None] = None
    prior_mean: OmitDefault[float | None] = None


class OtherCandidates(Event):
    """The candidates that a decision does not list: their number and digest.

    `sha256` is of the values of their `DecisionCandidates` records, joined in the order of parts.
    """

    count: PositiveCount
    sha256: Sha256


class SeedCandidate(Event):
    """One seed with the attention policy's score; a `score` of None (never tried) ranks first.

    `pulls` and `mean` cover all kernels tried in the seed; `free` is whether a kernel may be
    planted there now.
    """

    site: SiteName
    slot: Count
    pulls: Count
    mean: float | None
    score: float | None
    free: bool


class RandomStamp(Event):
    """The counter of the random numbers used: equal (seed, seq, purpose) give equal numbers."""

    seed: Count
    seq: Count
    purpose: Identifier


class Signal(Event):
    """One measurement that helps to choose the strategy, and the threshold that it is compared to.

    `threshold` is the looser one of two where the run already pursues the strategy that the signal
    calls for. `value` is None where nothing could be measured. `site` is absent from signals of the
    whole run.
    """

    name: Identifier
    site: OmitDefault[SiteName | None] = None
    value: float | None
    threshold: float
    on: bool


class ActiveStrategy(Event):
    """The strategy that a run pursues, the report since which it does, and the reason in words.

    `changed` is whether this report changed the strategy; `signals` are those of this report.
    """

    strategy: Identifier
    since_seq: Count
    why: Annotated[str, StringConstraints(max_length=200)]
    changed: bool
    signals: tuple[Signal, ...]


class AdaptationDecision(Event):
    """Operations that the trainer applies together, or refuses together, between two steps.

    `previous_sha256` is the digest of the value of the run's previous decision (None for the
    first), so that decisions form a hash chain. The state digests are of the fold's state before
    and after the report that `cause` names. A decision without strategy and operations seals the
    run's record when it answers the closing report; in a lockstep run, a decision like this ends
    the answer to each other report; in a run with a selection, it says why nothing can be planted,
    once until the reason changes. `seeds` and `attention` are absent where no policy chose among
    seeds, `strategy_choice`, which is `course` in runs of contract 2, where the run pursues no
    strategy. `candidates` holds all candidates, the best first, or the best and the planted ones,
    and `other_candidates` the digest of the rest. `request_id` is the id of the `RunRequest` that
    the decision answers, with operations or with a reason; such a decision never ends an answer.
    `auditions` change nothing in the model, and get no outcome: their results are reported.
    """

    decision_id: Sha256
    run_id: Identifier
    seq: Count
    index: Count
    strategy: Identifier | None
    operations: tuple[Operation, ...]
    auditions: OmitDefault[tuple[Audition, ...]] = ()
    reason: Annotated[str, StringConstraints(max_length=500)]
    apply_at_step: Annotated[int, Field(ge=1, le=INT64)]
    cause: Cause
    policy: PolicyStamp
    candidates: tuple[Candidate, ...]
    other_candidates: OmitDefault[OtherCandidates | None] = None
    seeds: OmitDefault[tuple[SeedCandidate, ...]] = ()
    attention: OmitDefault[PolicyStamp | None] = None
    course: OmitDefault[ActiveStrategy | None] = None
    strategy_choice: OmitDefault[ActiveStrategy | None] = None
    random: RandomStamp
    state_before_sha256: Sha256
    state_after_sha256: Sha256
    previous_sha256: Sha256 | None
    request_id: OmitDefault[Sha256 | None] = None

    @staticmethod
    def id_of(run_id: str, seq: int, index: int) -> str:
        """Return the id of a decision, a digest of its place: a repeated fold gives the same id."""
        return hashlib.sha256(f"{run_id}/{seq}/{index}".encode()).hexdigest()

    @property
    def plants(self) -> tuple[Plant, ...]:
        """The operations that plant a kernel."""
        return tuple(operation for operation in self.operations if isinstance(operation, Plant))

    @property
    def active_strategy(self) -> ActiveStrategy | None:
        """The strategy that the run pursues, by either name of the field."""
        return self.strategy_choice or self.course


class DecisionCandidates(Event):
    """Candidates that a decision does not list, in rank order; part `part` of `parts`, from 0.

    `seq` and `index` are those of the decision, which holds the digest of the candidates of all
    parts. The record precedes its decision, and the audit derives it again.
    """

    run_id: Identifier
    decision_id: Sha256
    seq: Count
    index: Count
    part: Count
    parts: PositiveCount
    candidates: tuple[Candidate, ...]
