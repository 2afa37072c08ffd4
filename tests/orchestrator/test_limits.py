"""What holds in every run, whatever its trainer measures, applies or refuses."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.orchestrator.trainer import RULES, Trainer, kernel
from topics.models import AdaptationDecision, Cull, Plant, SeedState

ON_TRIAL = {SeedState.BLENDING, SeedState.ACTIVE}
"""Seeds that change the network; one that loads may wait for the cull in the same plan."""

OFFERS = [kernel(site, name) for site in ("conv", "fc") for name in ("a", "b", "c", "d")]
CATEGORY = {offer.kernel_id: offer.category for offer in OFFERS}

contributions = st.none() | st.floats(-1, 1)


@dataclass
class Watch:
    """Holds every decision against the limits, from what the trainer alone knows."""

    trainer: Trainer
    embargo: dict[str, int] = field(default_factory=dict)

    def decided(self, decisions: tuple[AdaptationDecision, ...]) -> None:
        seq = self.trainer.seq - 1
        for decision in decisions:
            for operation in decision.operations:
                if isinstance(operation, Plant):
                    assert self.embargo.get(operation.kernel_id, 0) <= seq, "under embargo"
        for decision in decisions:
            for operation in decision.operations:
                if isinstance(operation, Cull):
                    self.embargo[operation.kernel_id] = seq + RULES.limits.embargo_reports

    def refused(self, decision: AdaptationDecision) -> None:
        for operation in decision.operations:
            if isinstance(operation, Plant):
                self.embargo[operation.kernel_id] = self.trainer.seq + RULES.limits.embargo_reports

    def check_site(self) -> None:
        seeds = self.trainer.seeds
        assert sum(seed.state in ON_TRIAL for seed in seeds.values()) <= RULES.limits.max_on_trial
        for site, slots in self.trainer.slots.items():
            here = [seed for (name, _), seed in seeds.items() if name == site]
            assert len(here) <= slots
            categories = [CATEGORY[seed.kernel_id] for seed in here if seed.kernel_id]
            assert len(set(categories)) == len(categories)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_limits_slots_categories_and_embargoes_hold_in_every_run(data: st.DataObject) -> None:
    trainer = Trainer({"conv": 2, "fc": 3}, seed=data.draw(st.integers(0, 1000)))
    watch = Watch(trainer)
    waiting: list[AdaptationDecision] = []
    offers = data.draw(st.permutations(OFFERS))
    for _ in range(data.draw(st.integers(5, 40))):
        arrived, offers = offers[:2], offers[2:]
        measured = {
            place: data.draw(contributions)
            for place, seed in trainer.seeds.items()
            if seed.state is SeedState.ACTIVE
        }
        probe_loss = data.draw(st.none() | st.floats(0, 2))
        answers = trainer.report(*arrived, contributions=measured, probe_loss=probe_loss)
        decisions = tuple(decision for decision in answers if decision.operations)
        watch.decided(decisions)
        assert not (decisions and waiting), "decided while an answer was outstanding"
        for decision in decisions:
            trainer.reserve(decision)
            waiting.append(decision)
        watch.check_site()
        # The trainer answers in order, and some time later.
        while waiting and data.draw(st.booleans()):
            decision = waiting.pop(0)
            if data.draw(st.booleans()):
                trainer.apply(decision)
            else:
                watch.refused(decision)
                trainer.refuse(decision)
            watch.check_site()
