"""Limits hold in every run, whatever its trainer measures, applies or refuses."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.bandit import POLICIES, policy_for
from esper.orchestrator import FoldState
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Orchestration,
    Plant,
    PolicySpec,
    SeedState,
    SelectionLimits,
)
from tests.orchestrator.trainer import Trainer, kernel, selection

ON_TRIAL = {SeedState.BLENDING, SeedState.ACTIVE}
"""States of seeds that change the network; a loading seed may wait for a cull of its plan."""

OFFERS = [kernel(site, name) for site in ("conv", "fc") for name in ("a", "b", "c", "d")]
CATEGORY = {offer.kernel_id: offer.category for offer in OFFERS}
PARAMS = OFFERS[0].params

contributions = st.none() | st.floats(-1, 1)
policies = st.sampled_from(sorted(POLICIES)).map(lambda name: PolicySpec(name=name))
attentions = st.none() | policies.filter(lambda spec: not policy_for(spec).contextual)

orchestrations = st.none() | st.builds(
    Orchestration,
    plateau_reports=st.integers(1, 8),
    harm_reports=st.integers(1, 4),
    rung_reports=st.integers(1, 3),
    cooldown_reports=st.integers(0, 5),
    waits_for_plateau=st.booleans(),
    reweight_reports=st.integers(1, 3),
    ensemble=st.sampled_from(["equal", "softmax"]),
)

selections = st.builds(
    selection,
    orchestration=orchestrations,
    max_on_trial=st.integers(1, 4),
    trial_reports=st.integers(1, 6),
    warmup_reports=st.integers(0, 3),
    keep_first_share=st.sampled_from([0.0, 0.1]),
    attention=attentions,
    dormant_reports=st.integers(0, 6),
    max_params=st.none() | st.integers(100, 700),
    rotation=st.integers(0, 2),
    forbidden=st.sampled_from([(), ("a",)]),
    pinned=st.sampled_from([{}, {"fc": ("a", "b", "d")}]),
)


@dataclass
class LimitChecker:
    """Check every decision against the limits, from the trainer's state only."""

    trainer: Trainer
    embargo: dict[str, int] = field(default_factory=dict)
    occupied: dict[tuple[str, int], int] = field(default_factory=dict)
    since: int | None = None

    @property
    def limits(self) -> SelectionLimits:
        """Return the limits of the run."""
        assert self.trainer.selection is not None
        return self.trainer.selection.limits

    def before_report(self) -> None:
        """Record the slots that are not dormant in the next report."""
        self.occupied |= dict.fromkeys(self.trainer.seeds, self.trainer.seq)

    def check_decisions(self, decisions: tuple[AdaptationDecision, ...]) -> None:
        seq = self.trainer.seq - 1
        for decision in decisions:
            seeds = [(operation.site, operation.slot) for operation in decision.operations]
            assert len(set(seeds)) == len(seeds), "two operations on one seed"
            self.check_strategy(decision)
        for decision in decisions:
            for operation in decision.operations:
                if isinstance(operation, Plant):
                    self.check_plant(operation, seq)
        for decision in decisions:
            for operation in decision.operations:
                if isinstance(operation, Cull):
                    self.embargo[operation.kernel_id] = seq + self.limits.embargo_reports

    def check_strategy(self, decision: AdaptationDecision) -> None:
        """Check a change of strategy against the cooldown."""
        assert self.trainer.selection is not None
        rules, choice = self.trainer.selection.orchestration, decision.active_strategy
        assert (choice is None) is (rules is None)
        if choice is None or rules is None:
            return
        assert choice.strategy == decision.strategy
        harm = any(signal.name == "harmful" and signal.on for signal in choice.signals)
        if choice.changed and not harm and self.since is not None:
            assert choice.since_seq - self.since >= rules.cooldown_reports, "changed too soon"
        self.since = choice.since_seq

    def check_plant(self, plant: Plant, seq: int) -> None:
        limits = self.limits
        dormant = seq - self.occupied.get((plant.site, plant.slot), -1)
        assert dormant >= limits.dormant_reports, "planted before dormant_reports passed"
        assert self.embargo.get(plant.kernel_id, 0) <= seq, "under embargo"
        assert plant.blueprint_id not in limits.forbidden, "forbidden"
        assert plant.blueprint_id in limits.pinned.get(plant.site, (plant.blueprint_id,)), "pinned"

    def on_refused(self, decision: AdaptationDecision) -> None:
        for operation in decision.operations:
            if isinstance(operation, Plant):
                until = self.trainer.seq + self.limits.embargo_reports
                self.embargo[operation.kernel_id] = until

    def check_slots(self) -> None:
        seeds = self.trainer.seeds
        assert sum(seed.state in ON_TRIAL for seed in seeds.values()) <= self.limits.max_on_trial
        planted = [seed for seed in seeds.values() if seed.kernel_id]
        if self.limits.max_params is not None:
            assert PARAMS * len(planted) <= 0.8 * self.limits.max_params
        for site, slots in self.trainer.slots.items():
            here = [seed for (name, _), seed in seeds.items() if name == site]
            assert len(here) <= slots
            categories = [CATEGORY[seed.kernel_id] for seed in here if seed.kernel_id]
            assert len(set(categories)) == len(categories)
            if self.trainer.selection and self.trainer.selection.orchestration:
                alphas = [seed.alpha for seed in here if seed.state in ON_TRIAL]
                assert sum(alphas) <= 1 + 1e-9, "alphas sum to more than 1"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_run_under_any_policy_violates_a_limit(data: st.DataObject) -> None:
    trainer = Trainer(
        {"conv": 2, "fc": 3},
        seed=data.draw(st.integers(0, 1000)),
        policy=data.draw(policies),
        selection=data.draw(selections),
    )
    checker = LimitChecker(trainer)
    pending: list[AdaptationDecision] = []
    arm_features = data.draw(st.permutations(OFFERS))
    for _ in range(data.draw(st.integers(5, 40))):
        arrived, arm_features = arm_features[:2], arm_features[2:]
        measured = {
            slot_id: data.draw(contributions)
            for slot_id, seed in trainer.seeds.items()
            if seed.state is SeedState.ACTIVE
        }
        probe_loss = data.draw(st.none() | st.floats(0, 2))
        checker.before_report()
        answers = trainer.report(*arrived, contributions=measured, probe_loss=probe_loss)
        assert FoldState.from_bytes(trainer.fold_state.to_bytes()) == trainer.fold_state
        decisions = tuple(decision for decision in answers if decision.operations)
        checker.check_decisions(decisions)
        assert not (decisions and pending), "a plan while another decision is pending"
        for decision in decisions:
            trainer.reserve(decision)
            pending.append(decision)
        checker.check_slots()
        # The trainer reports outcomes in order, after a random delay.
        while pending and data.draw(st.booleans()):
            decision = pending.pop(0)
            if data.draw(st.booleans()):
                trainer.apply(decision)
            else:
                checker.on_refused(decision)
                trainer.refuse(decision)
            checker.check_slots()
