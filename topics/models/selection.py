"""How a run selects kernels: policies, limits, priors, rules for strategies, memory of runs."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from esper.topics.models.event import Count, Event, Identifier, PositiveCount, SiteName
from esper.topics.models.omit_default import OmitDefault
from esper.topics.models.run import PolicySpec, SiteKind

Budget = Annotated[float, Field(gt=0)]
Reward = Annotated[float, Field(ge=0, le=1)]

ROLLBACK_EMBARGO_REPORTS: Final = 96
"""Four times the embargo of a kernel that was culled for a low contribution."""

COST_SPREAD: Final = 0.2
"""Default of `Priors.cost_spread`."""


class SelectionLimits(Event):
    """Limits that every decision respects, whatever the policies prefer.

    `max_on_trial` bounds the seeds on trial together. A seed must be dormant for `dormant_reports`,
    from the start of the run too, before a kernel is planted in it. `embargo_reports` is how long a
    culled kernel, and `rollback_embargo_reports` how long a kernel that the governor rolled back,
    may not be planted again.
    Budgets cover all planted kernels together, and decisions use 80 % of each: `max_params` bounds
    the parameters, `max_memory_ratio` and `max_latency_ratio` the sums of kernel ÷ host layer of
    peak memory and step time. Where a budget is set, a kernel of unknown cost is not planted.
    `rotation` is the number of most recent categories at a site that are not planted there again
    while another category is available. `forbidden` lists blueprints and `forbidden_sites` sites
    that are never used. At a `pinned` site, only the listed blueprints are planted.
    """

    max_on_trial: Annotated[int, Field(ge=1, le=64)] = 2
    dormant_reports: Count = 5
    embargo_reports: Count = 24
    max_params: PositiveCount | None = None
    max_memory_ratio: Budget | None = None
    max_latency_ratio: Budget | None = None
    rollback_embargo_reports: OmitDefault[Count] = ROLLBACK_EMBARGO_REPORTS
    rotation: Count = 0
    forbidden: tuple[Identifier, ...] = ()
    forbidden_sites: tuple[SiteName, ...] = ()
    pinned: dict[SiteName, tuple[Identifier, ...]] = {}

    @property
    def has_budget(self) -> bool:
        """Whether any budget is set."""
        return not self.max_params is self.max_memory_ratio is self.max_latency_ratio is None


class Priors(Event):
    """The number of trials that each source of a prior on an untried arm counts as; 0 disables it.

    `cost` expects more reward of cheaper kernels; `cost_spread` is the expected difference in
    reward between the cheapest and the most expensive kernel of a site. `memory` caps the weight of
    earlier runs of the same blueprint, `category` that of other blueprints of its category.
    """

    cost: Annotated[float, Field(ge=0, le=100)] = 1.0
    cost_spread: OmitDefault[Annotated[float, Field(ge=0, le=1)]] = COST_SPREAD
    memory: Annotated[float, Field(ge=0, le=100)] = 2.0
    category: Annotated[float, Field(ge=0, le=100)] = 0.5


Reports = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=1, le=1000)]


class Orchestration(Event):
    """The rules by which a run changes its strategy; see docs/choosing.md.

    Shares are fractions of the probe loss, ratios are of two mean contributions, and reports are
    counted at full alpha. A signal has two thresholds: the stricter one selects a strategy, the
    other one (`.._stay`) keeps it.

    The probe loss has plateaued when its best value of the last `plateau_reports` is less than
    `plateau_share` better than its best value of the same number of reports before. With
    `waits_for_plateau`, no round starts until the probe loss has plateaued. A seed does harm when
    its mean contribution over the last `harm_reports` is below -`harm_share`. A seed dominates its
    site when it contributes `dominance` times as much as the second; seeds are comparable when the
    best contributes at most `comparable_ratio` times as much as the worst. Successive halving keeps
    half of a round's candidates after `rung_reports`, a quarter after twice and an eighth after
    four times that number. A changed strategy stays for `cooldown_reports`, unless a seed does
    harm. A change of alpha takes `reweight_reports`.
    `ensemble` divides alpha among comparable seeds: in equal parts, or by the softmax of their
    contributions as shares of the probe loss, divided by `temperature`.
    `optional_strategies` names the strategies to use besides those that every run has.
    """

    plateau_reports: Reports = 8
    plateau_share: Share = 0.01
    plateau_share_stay: Share = 0.02
    waits_for_plateau: OmitDefault[bool] = False
    harm_reports: Reports = 2
    harm_share: Share = 0.02
    dominance: Ratio = 3.0
    dominance_stay: Ratio = 2.0
    comparable_ratio: Ratio = 1.5
    comparable_ratio_stay: Ratio = 2.0
    rung_reports: Reports = 2
    cooldown_reports: Count = 3
    reweight_reports: OmitDefault[Reports] = 1
    ensemble: Literal["equal", "softmax"] = "equal"
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.02
    optional_strategies: OmitDefault[tuple[Identifier, ...]] = ()

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        for name, enter, stay, stricter in (
            ("plateau_share", self.plateau_share, self.plateau_share_stay, min),
            ("dominance", self.dominance, self.dominance_stay, max),
            ("comparable_ratio", self.comparable_ratio, self.comparable_ratio_stay, min),
        ):
            if stricter(enter, stay) != enter:
                raise ValueError(
                    f"{name} is {enter} and {name}_stay {stay}; make {name} the stricter one"
                )
        return self


class Auditions(Event):
    """How kernels are tried away from the training path before one is planted.

    Rung r trains each of its kernels for `rung_steps[r]` steps in all; the best `kept_share` of
    them, and at least `finalists`, go on to the next rung. A fifth of those that go on are the ones
    that still gain fastest, because slow learners start low. A kernel passes with a gain that
    exceeds that of the control by `errors` standard errors. The best that pass are planted, one
    after another, at most `candidates` of a round; a kept kernel ends the round, because the host
    has changed. A round starts when the probe loss has plateaued and no kernel has arrived for
    `settle_reports`; if none was kept in the round before, `again_reports` after its last rung, and
    twice as long after each further round like it. A rung that lasts for `timeout_reports` goes on
    without the results that are missing; without any result, as where no audition worker runs,
    kernels are tried in the network instead.
    """

    rung_steps: Annotated[tuple[PositiveCount, ...], Field(min_length=1, max_length=8)] = (
        40,
        160,
        460,
    )
    kept_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    finalists: Annotated[int, Field(ge=1, le=100)] = 8
    errors: Annotated[float, Field(ge=0, le=10)] = 2.0
    candidates: Annotated[int, Field(ge=1, le=100)] = 3
    settle_reports: Reports = 3
    again_reports: Reports = 40
    timeout_reports: Reports = 200


class Selection(Event):
    """How seeds and kernels are selected: first a seed, then a kernel for its site.

    `attention` is the policy that selects the seed; the run's `policy` selects the blueprint for
    its site. Without `attention`, the run's policy selects among all (site, blueprint) pairs. At
    full alpha a seed warms up for `warmup_reports`, in which only harm counts. Its trial lasts
    until `trial_reports` contributions are measured. The kernel is kept if their mean is at least
    `keep_share` of the probe loss and `keep_first_share` of the first probe loss of the run. With
    an `orchestration` the run pursues one strategy at a time by its rules; without, trials are
    judged independently. With `auditions`, which need an orchestration, only kernels that passed
    one are planted.
    """

    attention: PolicySpec | None = None
    limits: SelectionLimits = SelectionLimits()
    priors: Priors = Priors()
    trial_reports: Annotated[int, Field(ge=1, le=1000)] = 6
    warmup_reports: OmitDefault[Annotated[int, Field(ge=0, le=1000)]] = 0
    keep_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    keep_first_share: OmitDefault[Share] = 0.0
    orchestration: OmitDefault[Orchestration | None] = None
    auditions: OmitDefault[Auditions | None] = None

    @model_validator(mode="after")
    def _check_auditions(self) -> Self:
        if self.auditions is not None and self.orchestration is None:
            raise ValueError("auditions need an orchestration, whose plateau starts them")
        return self


class SiteFacts(Event):
    """The features of a site for contextual policies.

    `depth` is the position among the run's sites, from 0 to 1; `signature` is
    `SiteSignature.text`; `params` is the parameter count of the host layer.
    """

    kind: SiteKind
    signature: Annotated[str, StringConstraints(max_length=200)]
    depth: Annotated[float, Field(ge=0, le=1)]
    params: Count


class RememberedArm(Event):
    """The results of a blueprint at sites of one signature in earlier runs of a task family.

    `weight` is the number of trials after discounting, `mean` their mean reward.
    """

    signature: Annotated[str, StringConstraints(max_length=200)]
    blueprint_id: Identifier
    weight: Annotated[float, Field(gt=0)]
    mean: Reward


class MemorySnapshot(Event):
    """The memory of earlier runs when a run opened; where it is empty, `note` says why."""

    family: Identifier
    arms: Annotated[tuple[RememberedArm, ...], Field(max_length=2000)] = ()
    note: Annotated[str, StringConstraints(max_length=500)] | None = None
