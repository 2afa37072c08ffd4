"""The governor on a small host: seeds removed, snapshots restored, incidents noted."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from esper.topics.models import Incident, IncidentKind, RolledBackSeed, SeedState
from esper.training.governor import Governor, LossBuffer
from esper.training.loss_monitor import GovernorSettings
from tests.seed.hosts import images, labels
from tests.training.grow_fixture import GrowingHost, MakeOptimizer, adam

S = SeedState
REPORT_EVERY = 10
SETTINGS = GovernorSettings(confirm_steps=15)


class GovernedHost(GrowingHost):
    """A host with a governor that observes the loss of every step."""

    def __init__(
        self, make_optimizer: MakeOptimizer = adam, settings: GovernorSettings = SETTINGS
    ) -> None:
        super().__init__(make_optimizer)
        self.incidents: list[Incident] = []
        self.planted_at: dict[str, int] = {}
        self.governor = Governor(
            settings,
            self.model,
            self.seed_manager,
            REPORT_EVERY,
            lambda name: self.planted_at[name],
            self.incidents.append,
        )
        self.governor.begin()

    def apply(self, plan: Any) -> None:
        self.planted_at[plan.decision_id] = self.step
        super().apply(plan)
        self.governor.note_plans(self.step)

    def train(self, steps: int = 1, loss: float | None = None) -> None:
        """Train; give the governor `loss` in place of the real losses, if given."""
        for _ in range(steps):
            self.step += 1
            torch.manual_seed(self.step)
            batch = images(16, seed=self.step % 7), labels(16, seed=self.step % 7)
            real = F.cross_entropy(self.model(batch[0]), batch[1])
            self.optimizer.zero_grad()
            real.backward()
            self.optimizer.step()
            self.governor.observe(real if loss is None else torch.tensor(loss), self.step)
            self.seed_manager.ramp(self.step)

    def state(self, site: str, slot: int) -> SeedState:
        return self.sites[site].slots[slot].state


def weights(growing: GrowingHost) -> dict[str, Tensor]:
    """Return a copy of host weights and optimizer state, without the seeds'."""
    state = {
        f"{index}.{key}": value
        for index, one in enumerate(growing.optimizer.state.values())
        for key, value in one.items()
    }
    host = {
        name: value for name, value in growing.model.state_dict().items() if "seeds" not in name
    }
    return copy.deepcopy(host | state)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture
def growing() -> GovernedHost:
    """Return a run of forty steps without seeds, whose newest snapshot is of step 40."""
    growing = GovernedHost()
    growing.train(40)
    return growing


def spoil(growing: GrowingHost, site: str, slot: int, value: float = torch.nan) -> None:
    for parameter in growing.sites[site].seed(slot).parameters():
        parameter.detach().fill_(value)


def test_a_seed_that_makes_the_loss_nan_is_removed_and_the_run_restored(
    growing: GovernedHost,
) -> None:
    before = weights(growing)
    growing.plant("fc1", 0, "low-rank-skip")
    kernel = growing.sites["fc1"].seed(0).kernel
    (slot,) = [slot for slot, _ in growing.seed_manager.planted()]
    operation, name = slot.planted, slot.decision_id
    assert operation is not None
    assert name is not None
    growing.train(3)
    spoil(growing, "fc1", 0)
    growing.train(1)
    assert growing.incidents == [
        Incident(
            kind=IncidentKind.NAN,
            step=44,
            loss=None,
            restored_step=40,
            seeds=(
                RolledBackSeed(site="fc1", slot=0, kernel_id=operation.kernel_id, decision_id=name),
            ),
        )
    ]
    assert growing.state("fc1", 0) is S.ROLLED_BACK
    assert_same(weights(growing), before)
    trained = {id(member) for group in growing.optimizer.param_groups for member in group["params"]}
    assert trained.isdisjoint(map(id, kernel.parameters()))
    assert growing.sites["fc1"].bank is None
    growing.train(20)
    assert len(growing.incidents) == 1


def test_a_seed_that_makes_the_loss_diverge_is_removed_after_a_few_steps(
    growing: GovernedHost,
) -> None:
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(3)
    spoil(growing, "fc1", 0, 1e4)
    growing.train(8)
    (incident,) = growing.incidents
    assert incident.kind is IncidentKind.DIVERGENCE
    assert (incident.step, incident.restored_step) == (48, 40)
    assert incident.loss is not None
    assert incident.loss > 100


def test_a_rise_of_the_loss_after_a_cull_removes_no_other_seed(growing: GovernedHost) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(60)
    growing.cull("fc1", 0)
    growing.train(SETTINGS.settle_steps, loss=50.0)
    assert not growing.incidents
    growing.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert [seed.site for seed in growing.incidents[0].seeds] == ["conv"]


def test_a_rise_of_the_loss_during_a_change_of_alpha_removes_no_seed(growing: GovernedHost) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(60)
    growing.reweight("conv", 0, alpha=0.5, ramp_steps=20)
    growing.train(20 + SETTINGS.settle_steps, loss=50.0)
    assert not growing.incidents
    assert float(growing.sites["conv"].seed(0).alpha) == 0.5
    growing.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert growing.incidents


def test_a_rise_of_the_loss_after_a_rollback_removes_no_other_seed(
    growing: GovernedHost,
) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(60)
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert [seed.site for seed in growing.incidents[0].seeds] == ["fc1"]
    growing.train(SETTINGS.settle_steps, loss=50.0)
    assert len(growing.incidents) == 1
    growing.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert [seed.site for seed in growing.incidents[1].seeds] == ["conv"]


def test_a_planting_starts_no_settle_window(growing: GovernedHost) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert growing.incidents


def test_of_two_seeds_on_trial_the_newest_is_removed_and_the_other_restored(
    growing: GovernedHost,
) -> None:
    growing.plant("conv", 0, "squeeze-excite", ramp_steps=20)
    growing.train(60)
    assert growing.state("conv", 0) is S.ACTIVE
    older = growing.sites["conv"].seed(0)
    growing.train(1)
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(1, loss=float("nan"))
    assert [seed.site for seed in growing.incidents[0].seeds] == ["fc1"]
    assert growing.state("conv", 0) is S.ACTIVE
    assert growing.sites["conv"].seed(0) is older
    assert float(older.alpha) == 1.0
    assert growing.incidents[0].restored_step == 80
    growing.train(1, loss=float("nan"))
    assert [seed.site for seed in growing.incidents[1].seeds] == ["conv"]


def test_seeds_planted_after_the_snapshot_are_removed_too(growing: GovernedHost) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(5)
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(5, loss=1e6)
    assert [seed.site for seed in growing.incidents[0].seeds] == ["conv", "fc1"]
    assert growing.incidents[0].restored_step == 40


def test_seeds_culled_since_the_snapshot_stay_culled(growing: GovernedHost) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(50)
    growing.cull("conv", 0)
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(1, loss=float("nan"))
    assert growing.incidents[0].restored_step == 60
    assert growing.state("conv", 0) is S.CULLED
    assert growing.sites["conv"].bank is None
    growing.train(5)


def test_a_fossilized_seed_beside_its_layer_is_restored_with_the_host(
    growing: GovernedHost,
) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(50)
    growing.fossilize("conv", 0)
    assert growing.sites["conv"].slots[0].merged_sha256 is None
    growing.train(10)
    kept = copy.deepcopy(growing.sites["conv"].seed(0).state_dict())
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(4)
    growing.train(1, loss=float("nan"))
    assert growing.incidents[0].restored_step == 100
    assert_same(growing.sites["conv"].seed(0).state_dict(), kept)
    assert growing.state("conv", 0) is S.FOSSILIZED


def test_no_snapshot_of_before_a_merge_is_restored(growing: GovernedHost) -> None:
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(52)
    growing.fossilize("fc1", 0)
    assert growing.sites["fc1"].slots[0].merged_sha256 is not None
    merged = weights(growing)
    growing.plant("fc1", 1, "linear-bottleneck")
    growing.train(1, loss=float("nan"))
    assert growing.incidents[0].restored_step == 92
    assert_same(weights(growing), merged)


def test_an_incident_without_seeds_on_trial_changes_nothing_and_is_noted_once(
    growing: GovernedHost, caplog: pytest.LogCaptureFixture
) -> None:
    before = weights(growing)
    with caplog.at_level(logging.WARNING, logger="esper"):
        for _ in range(3):
            growing.governor.observe(torch.tensor(torch.nan), growing.step + 1)
    assert growing.incidents == [Incident(kind=IncidentKind.NAN, step=41)]
    assert len(caplog.records) == 1
    assert "with no seed on trial: the host causes it, and nothing is changed" in caplog.text
    assert_same(weights(growing), before)


def test_a_fossilized_seed_belongs_to_the_host(growing: GovernedHost) -> None:
    growing.plant("conv", 0, "squeeze-excite")
    growing.train(3)
    growing.fossilize("conv", 0)
    growing.train(1, loss=float("nan"))
    assert growing.incidents == [Incident(kind=IncidentKind.NAN, step=44)]
    assert growing.state("conv", 0) is S.FOSSILIZED


def test_without_memory_for_snapshots_the_seed_is_still_removed() -> None:
    growing = GovernedHost(settings=GovernorSettings(snapshot_bytes=100))
    growing.train(40)
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(1, loss=float("nan"))
    (incident,) = growing.incidents
    assert incident.restored_step is None
    assert growing.state("fc1", 0) is S.ROLLED_BACK


def test_the_same_losses_lead_to_the_same_incidents_and_bits() -> None:
    runs = []
    for _ in range(2):
        growing = GovernedHost()
        growing.train(40)
        growing.plant("fc1", 0, "low-rank-skip")
        growing.train(3)
        spoil(growing, "fc1", 0, 1e4)
        growing.train(30)
        runs.append((growing.incidents, weights(growing)))
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])


def test_a_recorded_incident_is_repeated_at_its_step() -> None:
    first, again = GovernedHost(), GovernedHost()
    for growing in (first, again):
        growing.train(40)
        growing.plant("fc1", 0, "low-rank-skip")
        growing.train(4)
    first.train(1, loss=float("nan"))
    again.step += 1
    again.governor.observe_replayed(torch.tensor(0.5), again.step, first.incidents)
    assert again.incidents == first.incidents
    assert_same(weights(again), weights(first))


def test_a_recorded_incident_without_its_snapshot_is_refused(
    growing: GovernedHost,
) -> None:
    growing.plant("fc1", 0, "low-rank-skip")
    growing.train(1)
    incident = Incident(kind=IncidentKind.NAN, step=42, restored_step=10)
    incident = incident.model_copy(
        update={
            "seeds": (RolledBackSeed(site="fc1", slot=0, kernel_id="0" * 64, decision_id="0" * 64),)
        }
    )
    with pytest.raises(ValueError, match="returned to step 10, of which there is no snapshot"):
        growing.governor.observe_replayed(torch.tensor(0.5), 42, [incident])


def test_a_loss_on_the_cpu_is_returned_immediately() -> None:
    buffer = LossBuffer(4)
    assert buffer.read(torch.tensor(0.5, requires_grad=True), now=False) == [0.5]
