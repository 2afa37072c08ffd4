"""An orchestrated run with a given contribution per kernel."""

from collections.abc import Mapping, Sequence
from typing import Any

from esper.topics.models import (
    ActiveStrategy,
    AdaptationDecision,
    LoadableKernel,
    Orchestration,
    Signal,
)
from tests.orchestrator.trainer import Trainer, kernel, selection

SITES = {"conv": 3, "fc": 3}
OFFERS = [kernel(site, name) for site in SITES for name in ("a", "b", "c", "d")]
Worth = Mapping[tuple[str, str], float | None]
"""Contribution to a probe loss of 1, by site and blueprint."""


class Run:
    """An orchestrated run with a given contribution per kernel; 0.05 for other kernels."""

    def __init__(
        self,
        worth: Worth | None = None,
        slots: Mapping[str, int] = SITES,
        arm_features: Sequence[LoadableKernel] = (),
        *,
        max_on_trial: int = 2,
        trial_reports: int = 6,
        warmup_reports: int = 0,
        keep_share: float = 0.01,
        keep_first_share: float = 0.0,
        limits: Mapping[str, Any] | None = None,
        **rules: Any,
    ) -> None:
        self.trainer = Trainer(
            slots,
            selection=selection(
                max_on_trial=max_on_trial,
                trial_reports=trial_reports,
                warmup_reports=warmup_reports,
                keep_share=keep_share,
                keep_first_share=keep_first_share,
                orchestration=Orchestration(**rules),
                **(limits or {}),
            ),
        )
        self.worth = dict(worth or {})
        self.loss: float | None = 1.0
        self.plans: list[AdaptationDecision] = []
        self.trainer.report()
        self.go(*(arm_features or [kernel for kernel in OFFERS if kernel.site in slots]))

    def go(self, *arm_features: LoadableKernel) -> AdaptationDecision | None:
        """Make one report and apply its plan; return the plan, or None."""
        measured = {}
        for slot_id, seed in self.trainer.seeds.items():
            if seed.blueprint_id is not None:
                measured[slot_id] = self.worth.get((slot_id[0], seed.blueprint_id), 0.05)
        decisions = self.trainer.report(*arm_features, contributions=measured, probe_loss=self.loss)
        plans = [decision for decision in decisions if decision.operations]
        assert len(plans) <= 1, "one plan at a time"
        self.trainer.accept(plans)
        self.plans += plans
        return plans[0] if plans else None

    def until(self, strategy: str, reports: int = 40) -> AdaptationDecision:
        """Report until a strategy proposes a plan; return the plan."""
        for _ in range(reports):
            decision = self.go()
            if decision is not None and decision.strategy == strategy:
                return decision
        raise AssertionError(f"{strategy} proposed no plan in {reports} reports: {self.plans}")

    @property
    def planted(self) -> int:
        """Return the number of kernels in the network."""
        return sum(seed.kernel_id is not None for seed in self.trainer.seeds.values())

    @property
    def first(self) -> AdaptationDecision:
        return self.plans[0]


def operations(decision: AdaptationDecision, kind: type[Any]) -> list[Any]:
    return [operation for operation in decision.operations if isinstance(operation, kind)]


def active_strategy(decision: AdaptationDecision) -> ActiveStrategy:
    assert decision.active_strategy is not None
    return decision.active_strategy


def signal(decision: AdaptationDecision, name: str) -> Signal:
    (found,) = [signal for signal in active_strategy(decision).signals if signal.name == name]
    return found


FOREVER = {"embargo_reports": 1000}
"""Limits under which a culled kernel is never planted again."""


def flat(site: str, **worth: float | None) -> Worth:
    return {(site, name): value for name, value in worth.items()}


TWO = [kernel("conv", "a"), kernel("conv", "b")]


def one_at_a_time(worth: Worth) -> Run:
    """Return a run with two kernels of one site, on trial one at a time, with a short embargo."""
    return Run(worth, {"conv": 4}, TWO, max_on_trial=1, limits={"embargo_reports": 2})
