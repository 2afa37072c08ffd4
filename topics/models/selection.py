"""How a run chooses: its policies, what they may never exceed, and what earlier runs taught."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from esper.topics.models.event import Count, Event, Identifier, SiteName
from esper.topics.models.omit_default import OmitDefault
from esper.topics.models.run import PolicySpec, SiteKind

Budget = Annotated[float, Field(gt=0)]
Reward = Annotated[float, Field(ge=0, le=1)]

ROLLBACK_EMBARGO_REPORTS: Final = 96
"""Four times what a kernel that was merely too weak is left alone for."""

COST_SPREAD: Final = 0.2
"""Of runs whose opening does not tell; it is left out of the bytes."""


class SelectionLimits(Event):
    """What no decision may break, whatever a policy prefers.

    A seed is planted no sooner than `dormant_reports` after it fell dormant, which it is when the
    run opens. Of each budget 80 % is used: `max_params` is what all planted kernels may add
    together, the ratios are sums over them of kernel ÷ host layer, of the peak of memory and of
    the time of a step. Where a budget is set, a kernel whose cost is unknown is not planted.
    `rotation` is how many of the categories last planted at a site rest there, as long as another
    one is on offer.
    Where `pinned` names a site, only the blueprints named are planted there. A kernel that the
    governor rolled back may not be planted again for `rollback_embargo_reports`.
    """

    max_on_trial: Annotated[int, Field(ge=1, le=64)] = 2
    dormant_reports: Count = 5
    embargo_reports: Count = 24
    max_params: Annotated[int, Field(ge=1)] | None = None
    max_memory_ratio: Budget | None = None
    max_latency_ratio: Budget | None = None
    rollback_embargo_reports: OmitDefault[Count] = ROLLBACK_EMBARGO_REPORTS
    rotation: Count = 0
    forbidden: tuple[Identifier, ...] = ()
    forbidden_sites: tuple[SiteName, ...] = ()
    pinned: dict[SiteName, tuple[Identifier, ...]] = {}

    @property
    def budgets(self) -> bool:
        """Whether any budget is set."""
        return not self.max_params is self.max_memory_ratio is self.max_latency_ratio is None


class Priors(Event):
    """How many trials each source of belief about an untried arm is worth; 0 leaves it out.

    `cost` believes that what costs less is the better try: `cost_spread` is by how much reward the
    cheapest kernel of a site is expected to exceed the dearest. `memory` caps what earlier runs of
    the blueprint count, `category` what those of others of its category do.
    """

    cost: Annotated[float, Field(ge=0, le=100)] = 1.0
    cost_spread: OmitDefault[Annotated[float, Field(ge=0, le=1)]] = COST_SPREAD
    memory: Annotated[float, Field(ge=0, le=100)] = 2.0
    category: Annotated[float, Field(ge=0, le=100)] = 0.5


Reports = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=1, le=1000)]


class Orchestration(Event):
    """What a run takes as a sign that it should intend something else; see docs/choosing.md.

    Shares are of the probe loss, ratios are of two mean contributions, and what is counted in
    reports is counted at full alpha. Of two thresholds for one sign the stricter one calls for a
    strategy, and the other (`.._stay`) keeps it.

    The probe loss is on a plateau when the best of the last `plateau_reports` is less than
    `plateau_share` better than the best of as many before; a run that `waits_for_plateau` opens no
    round before, even where nothing is on trial. A seed does harm when its mean contribution over
    the last `harm_reports` is below minus `harm_share`. One seed of a site dominates when it gives
    `dominance` times what the second does; seeds are comparable when the best gives no more than
    `comparable_ratio` times what the worst does. Of the candidates of one round half may be left
    after `rung_reports`, a quarter after twice, an eighth after four times as many. After the
    strategy has changed it stays for `cooldown_reports`, harm excepted. What is weighed anew takes
    `reweight_reports` to get there, while the host follows.
    Comparable seeds share their alpha in equal parts or, `softmax`, in proportion to the
    exponential of their contribution, as a share, over `temperature`.
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

    @model_validator(mode="after")
    def _stays_longer_than_it_enters(self) -> Self:
        for name, enter, stay, stricter in (
            ("plateau_share", self.plateau_share, self.plateau_share_stay, min),
            ("dominance", self.dominance, self.dominance_stay, max),
            ("comparable_ratio", self.comparable_ratio, self.comparable_ratio_stay, min),
        ):
            if stricter(enter, stay) != enter:
                raise ValueError(
                    f"{name} is {enter} and {name}_stay {stay}; "
                    "what calls for a strategy must be the stricter one"
                )
        return self


class Selection(Event):
    """How seeds and kernels are chosen: first which seed gets attention, then what goes there.

    `attention` chooses the seed, and the opening's `policy` the blueprint for its site; without it
    that policy chooses among all (site, blueprint) at once. Once at full alpha a seed first learns
    for `warmup_reports`, in which only harm counts; then it is on trial until `trial_reports`
    contributions were measured, and kept when their mean is at least `keep_share` of the probe
    loss, and `keep_first_share` of the first that the run measured. With an `orchestration` the
    run pursues one strategy at a time, by its rules; without, each trial is judged for itself.
    """

    attention: PolicySpec | None = None
    limits: SelectionLimits = SelectionLimits()
    priors: Priors = Priors()
    trial_reports: Annotated[int, Field(ge=1, le=1000)] = 6
    warmup_reports: OmitDefault[Annotated[int, Field(ge=0, le=1000)]] = 0
    keep_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    keep_first_share: OmitDefault[Share] = 0.0
    orchestration: OmitDefault[Orchestration | None] = None


class SiteFacts(Event):
    """What a policy may know of a site: `depth` is its place among the run's sites, from 0 to 1.

    `signature` is the same text for sites of equal signature; `params` are the host layer's own.
    """

    kind: SiteKind
    signature: Annotated[str, StringConstraints(max_length=200)]
    depth: Annotated[float, Field(ge=0, le=1)]
    params: Count


class RememberedArm(Event):
    """What earlier runs of a task family found of a blueprint at sites of one signature.

    `weight` is how many trials it counts as after discounting, `mean` their mean reward.
    """

    signature: Annotated[str, StringConstraints(max_length=200)]
    blueprint_id: Identifier
    weight: Annotated[float, Field(gt=0)]
    mean: Reward


class MemorySnapshot(Event):
    """What a run knew of earlier ones when it opened; `note` says why, where it knew nothing."""

    family: Identifier
    arms: Annotated[tuple[RememberedArm, ...], Field(max_length=2000)] = ()
    note: Annotated[str, StringConstraints(max_length=500)] | None = None
