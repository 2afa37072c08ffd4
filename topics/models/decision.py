"""One decision: what to do, and everything needed to derive it again and to believe it."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from esper.topics.models.event import INT64, Count, Event, Identifier, Sha256, SiteName
from esper.topics.models.omit_default import OmitDefault


class Strategy(StrEnum):
    """The intention behind a decision."""

    REPLACE = "replace"
    DIVERSIFY = "diversify"
    SPECIALIZE = "specialize"
    ENSEMBLE = "ensemble"


class Plant(Event):
    """Load a kernel into a dormant slot and blend it in over `ramp_steps` steps up to `alpha`.

    `ramp` is the shape of the way there. A linear one is left out of the bytes, which are then
    those of earlier versions.
    """

    op: Literal["plant"] = "plant"
    site: SiteName
    slot: Count
    kernel_id: Sha256
    blueprint_id: Identifier
    alpha: Annotated[float, Field(gt=0, le=1)]
    ramp_steps: Count
    ramp: OmitDefault[Literal["linear", "cosine"]] = "linear"


class Cull(Event):
    """Remove the kernel of a slot from the model and the optimizer."""

    op: Literal["cull"] = "cull"
    site: SiteName
    slot: Count
    kernel_id: Sha256


class Fossilize(Event):
    """Make the kernel of a slot part of the host for good."""

    op: Literal["fossilize"] = "fossilize"
    site: SiteName
    slot: Count
    kernel_id: Sha256


class Reweight(Event):
    """Bring the alpha of an active seed from where it is to `alpha` over `ramp_steps` steps."""

    op: Literal["reweight"] = "reweight"
    site: SiteName
    slot: Count
    kernel_id: Sha256
    alpha: Annotated[float, Field(gt=0, le=1)]
    ramp_steps: Count


Operation = Annotated[Plant | Cull | Fossilize | Reweight, Field(discriminator="op")]


class Cause(Event):
    """The record that a decision answers: where it stood, and the digest of its value."""

    topic: str
    partition: Count
    offset: Count
    seq: Count
    sha256: Sha256


class PolicyStamp(Event):
    """Which policy scored the candidates; the digest is of its parameters' canonical JSON."""

    name: Identifier
    version: Count
    params_sha256: Sha256


class Candidate(Event):
    """One arm as the policy saw it. `score` is None for an arm never tried, which ranks first.

    `excluded` says in words, and `constraint` by name, what rules it out now. The prior is what was
    believed of it before its first trial: a mean reward, and the number of trials that is worth.
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


class SeedCandidate(Event):
    """One seed as the policy for attention saw it: how what was planted there has done.

    `score` is None for a seed never tried, which ranks first; `free` is whether a kernel may be
    planted there now.
    """

    site: SiteName
    slot: Count
    pulls: Count
    mean: float | None
    score: float | None
    free: bool


class RandomStamp(Event):
    """The counter of every random number used: same (seed, seq, purpose), same numbers."""

    seed: Count
    seq: Count
    purpose: Identifier


class Signal(Event):
    """One sign by which a strategy is chosen: what was found, and what it is held against.

    `threshold` is the one that counted: the looser one where the strategy that it calls for is
    pursued already. `value` is None where there is nothing to measure. A site is named where the
    sign is of a site.
    """

    name: Identifier
    site: OmitDefault[SiteName | None] = None
    value: float | None
    threshold: float
    on: bool


class ActiveStrategy(Event):
    """The strategy that a run pursues: since which report, and what made it so, in words.

    `changed` is whether this report did; `signals` are those of this report.
    """

    strategy: Strategy
    since_seq: Count
    why: Annotated[str, StringConstraints(max_length=200)]
    changed: bool
    signals: tuple[Signal, ...]


class AdaptationDecision(Event):
    """A plan of operations that the trainer applies between two steps: all of it, or none.

    `previous_sha256` is the digest of the previous decision's record value in this run (None for
    the first), which chains the decisions. The state digests are those of the fold before and
    after the report named by `cause`. The decision that answers a run's closing report has no
    strategy and no operations: it seals the record. In a lockstep run such a decision, the last
    of its seq, ends the answer to every other report too; in any run with a selection it says, once
    until that changes, why nothing can be planted. `seeds` and `attention` are absent where no
    policy chose among seeds, `course` where the run pursues none. `request_id` is the id of what a
    person asked for, in the decision that answers it: with operations that do it, or none and a
    reason; it never ends an answer.
    """

    decision_id: Sha256
    run_id: Identifier
    seq: Count
    index: Count
    strategy: Strategy | None
    operations: tuple[Operation, ...]
    reason: Annotated[str, StringConstraints(max_length=500)]
    apply_at_step: Annotated[int, Field(ge=1, le=INT64)]
    cause: Cause
    policy: PolicyStamp
    candidates: tuple[Candidate, ...]
    seeds: OmitDefault[tuple[SeedCandidate, ...]] = ()
    attention: OmitDefault[PolicyStamp | None] = None
    course: OmitDefault[ActiveStrategy | None] = None
    random: RandomStamp
    state_before_sha256: Sha256
    state_after_sha256: Sha256
    previous_sha256: Sha256 | None
    request_id: OmitDefault[Sha256 | None] = None
