"""An orchestrated run, of which it is known what each kernel is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from esper.topics.models import (
    ActiveStrategy,
    AdaptationDecision,
    LoadableKernel,
    Orchestration,
    Signal,
    Strategy,
)
from tests.orchestrator.trainer import Trainer, kernel, selection

SITES = {"conv": 3, "fc": 3}
OFFERS = [kernel(site, name) for site in SITES for name in ("a", "b", "c", "d")]
Worth = Mapping[tuple[str, str], float | None]
"""What a blueprint gives at a site, of a probe loss of 1."""


class Run:
    """An orchestrated run of which it is known what each kernel is worth."""

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
        self.said: list[AdaptationDecision] = []
        self.trainer.report()
        self.go(*(arm_features or [kernel for kernel in OFFERS if kernel.site in slots]))

    def go(self, *arm_features: LoadableKernel) -> AdaptationDecision | None:
        """Make one report, have what is decided applied, and return it."""
        measured = {}
        for slot_id, seed in self.trainer.seeds.items():
            if seed.blueprint_id is not None:
                measured[slot_id] = self.worth.get((slot_id[0], seed.blueprint_id), 0.05)
        decisions = self.trainer.report(*arm_features, contributions=measured, probe_loss=self.loss)
        asked = [decision for decision in decisions if decision.operations]
        assert len(asked) <= 1, "one plan at a time"
        self.trainer.accept(asked)
        self.said += asked
        return asked[0] if asked else None

    def until(self, strategy: Strategy, reports: int = 40) -> AdaptationDecision:
        """Report until a strategy acts."""
        for _ in range(reports):
            decision = self.go()
            if decision is not None and decision.strategy is strategy:
                return decision
        raise AssertionError(f"{strategy} did nothing in {reports} reports: {self.said}")

    @property
    def planted(self) -> int:
        """How many kernels are in the network."""
        return sum(seed.kernel_id is not None for seed in self.trainer.seeds.values())

    @property
    def first(self) -> AdaptationDecision:
        return self.said[0]


def operations(decision: AdaptationDecision, kind: type[Any]) -> list[Any]:
    return [operation for operation in decision.operations if isinstance(operation, kind)]


def course(decision: AdaptationDecision) -> ActiveStrategy:
    assert decision.course is not None
    return decision.course


def signal(decision: AdaptationDecision, name: str) -> Signal:
    (found,) = [signal for signal in course(decision).signals if signal.name == name]
    return found


FOREVER = {"embargo_reports": 1000}
"""What is culled does not come back."""


def flat(site: str, **worth: float | None) -> Worth:
    return {(site, name): value for name, value in worth.items()}


TWO = [kernel("conv", "a"), kernel("conv", "b")]


def one_at_a_time(worth: Worth) -> Run:
    """A run of two kernels of one site, tried in turn; what is culled soon comes back."""
    return Run(worth, {"conv": 4}, TWO, max_on_trial=1, limits={"embargo_reports": 2})
