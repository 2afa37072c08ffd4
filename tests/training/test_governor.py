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
from tests.training.grow_fixture import MakeOptimizer, Plot, adam

S = SeedState
REPORT_EVERY = 10
SETTINGS = GovernorSettings(confirm_steps=15)


class GovernedPlot(Plot):
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


def weights(plot: Plot) -> dict[str, Tensor]:
    """Return a copy of host weights and optimizer state, without the seeds'."""
    state = {
        f"{index}.{key}": value
        for index, one in enumerate(plot.optimizer.state.values())
        for key, value in one.items()
    }
    host = {name: value for name, value in plot.model.state_dict().items() if "seeds" not in name}
    return copy.deepcopy(host | state)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture
def plot() -> GovernedPlot:
    """Return a run of forty steps without seeds, whose newest snapshot is of step 40."""
    plot = GovernedPlot()
    plot.train(40)
    return plot


def spoil(plot: Plot, site: str, slot: int, value: float = torch.nan) -> None:
    for parameter in plot.sites[site].seed(slot).parameters():
        parameter.detach().fill_(value)


def test_a_seed_that_makes_the_loss_nan_is_removed_and_the_run_restored(
    plot: GovernedPlot,
) -> None:
    before = weights(plot)
    plot.plant("fc1", 0, "low-rank-skip")
    kernel = plot.sites["fc1"].seed(0).kernel
    (slot,) = [slot for slot, _ in plot.seed_manager.planted()]
    operation, name = slot.planted, slot.decision_id
    assert operation is not None
    assert name is not None
    plot.train(3)
    spoil(plot, "fc1", 0)
    plot.train(1)
    assert plot.incidents == [
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
    assert plot.state("fc1", 0) is S.ROLLED_BACK
    assert_same(weights(plot), before)
    trained = {id(member) for group in plot.optimizer.param_groups for member in group["params"]}
    assert trained.isdisjoint(map(id, kernel.parameters()))
    assert plot.sites["fc1"].bank is None
    plot.train(20)
    assert len(plot.incidents) == 1


def test_a_seed_that_makes_the_loss_diverge_is_removed_after_a_few_steps(
    plot: GovernedPlot,
) -> None:
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(3)
    spoil(plot, "fc1", 0, 1e4)
    plot.train(8)
    (incident,) = plot.incidents
    assert incident.kind is IncidentKind.DIVERGENCE
    assert (incident.step, incident.restored_step) == (48, 40)
    assert incident.loss is not None
    assert incident.loss > 100


def test_a_rise_of_the_loss_after_a_cull_removes_no_other_seed(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(60)
    plot.cull("fc1", 0)
    plot.train(SETTINGS.settle_steps, loss=50.0)
    assert not plot.incidents
    plot.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert [seed.site for seed in plot.incidents[0].seeds] == ["conv"]


def test_a_rise_of_the_loss_during_a_change_of_alpha_removes_no_seed(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(60)
    plot.reweight("conv", 0, alpha=0.5, ramp_steps=20)
    plot.train(20 + SETTINGS.settle_steps, loss=50.0)
    assert not plot.incidents
    assert float(plot.sites["conv"].seed(0).alpha) == 0.5
    plot.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert plot.incidents


def test_a_rise_of_the_loss_after_a_rollback_removes_no_other_seed(
    plot: GovernedPlot,
) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(60)
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert [seed.site for seed in plot.incidents[0].seeds] == ["fc1"]
    plot.train(SETTINGS.settle_steps, loss=50.0)
    assert len(plot.incidents) == 1
    plot.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert [seed.site for seed in plot.incidents[1].seeds] == ["conv"]


def test_a_planting_starts_no_settle_window(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(SETTINGS.consecutive_outliers, loss=50.0)
    assert plot.incidents


def test_of_two_seeds_on_trial_the_newest_is_removed_and_the_other_restored(
    plot: GovernedPlot,
) -> None:
    plot.plant("conv", 0, "squeeze-excite", ramp_steps=20)
    plot.train(60)
    assert plot.state("conv", 0) is S.ACTIVE
    older = plot.sites["conv"].seed(0)
    plot.train(1)
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(1, loss=float("nan"))
    assert [seed.site for seed in plot.incidents[0].seeds] == ["fc1"]
    assert plot.state("conv", 0) is S.ACTIVE
    assert plot.sites["conv"].seed(0) is older
    assert float(older.alpha) == 1.0
    assert plot.incidents[0].restored_step == 80
    plot.train(1, loss=float("nan"))
    assert [seed.site for seed in plot.incidents[1].seeds] == ["conv"]


def test_seeds_planted_after_the_snapshot_are_removed_too(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(5)
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(5, loss=1e6)
    assert [seed.site for seed in plot.incidents[0].seeds] == ["conv", "fc1"]
    assert plot.incidents[0].restored_step == 40


def test_seeds_culled_since_the_snapshot_stay_culled(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(50)
    plot.cull("conv", 0)
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(1, loss=float("nan"))
    assert plot.incidents[0].restored_step == 60
    assert plot.state("conv", 0) is S.CULLED
    assert plot.sites["conv"].bank is None
    plot.train(5)


def test_a_fossilized_seed_beside_its_layer_is_restored_with_the_host(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(50)
    plot.fossilize("conv", 0)
    assert plot.sites["conv"].slots[0].merged_sha256 is None
    plot.train(10)
    kept = copy.deepcopy(plot.sites["conv"].seed(0).state_dict())
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(4)
    plot.train(1, loss=float("nan"))
    assert plot.incidents[0].restored_step == 100
    assert_same(plot.sites["conv"].seed(0).state_dict(), kept)
    assert plot.state("conv", 0) is S.FOSSILIZED


def test_no_snapshot_of_before_a_merge_is_restored(plot: GovernedPlot) -> None:
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(52)
    plot.fossilize("fc1", 0)
    assert plot.sites["fc1"].slots[0].merged_sha256 is not None
    merged = weights(plot)
    plot.plant("fc1", 1, "linear-bottleneck")
    plot.train(1, loss=float("nan"))
    assert plot.incidents[0].restored_step == 92
    assert_same(weights(plot), merged)


def test_an_incident_without_seeds_on_trial_changes_nothing_and_is_noted_once(
    plot: GovernedPlot, caplog: pytest.LogCaptureFixture
) -> None:
    before = weights(plot)
    with caplog.at_level(logging.WARNING, logger="esper"):
        for _ in range(3):
            plot.governor.observe(torch.tensor(torch.nan), plot.step + 1)
    assert plot.incidents == [Incident(kind=IncidentKind.NAN, step=41)]
    assert len(caplog.records) == 1
    assert "with no seed on trial: the host causes it, and nothing is changed" in caplog.text
    assert_same(weights(plot), before)


def test_a_fossilized_seed_belongs_to_the_host(plot: GovernedPlot) -> None:
    plot.plant("conv", 0, "squeeze-excite")
    plot.train(3)
    plot.fossilize("conv", 0)
    plot.train(1, loss=float("nan"))
    assert plot.incidents == [Incident(kind=IncidentKind.NAN, step=44)]
    assert plot.state("conv", 0) is S.FOSSILIZED


def test_without_memory_for_snapshots_the_seed_is_still_removed() -> None:
    plot = GovernedPlot(settings=GovernorSettings(snapshot_bytes=100))
    plot.train(40)
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(1, loss=float("nan"))
    (incident,) = plot.incidents
    assert incident.restored_step is None
    assert plot.state("fc1", 0) is S.ROLLED_BACK


def test_the_same_losses_lead_to_the_same_incidents_and_bits() -> None:
    runs = []
    for _ in range(2):
        plot = GovernedPlot()
        plot.train(40)
        plot.plant("fc1", 0, "low-rank-skip")
        plot.train(3)
        spoil(plot, "fc1", 0, 1e4)
        plot.train(30)
        runs.append((plot.incidents, weights(plot)))
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])


def test_a_recorded_incident_is_repeated_at_its_step() -> None:
    first, again = GovernedPlot(), GovernedPlot()
    for plot in (first, again):
        plot.train(40)
        plot.plant("fc1", 0, "low-rank-skip")
        plot.train(4)
    first.train(1, loss=float("nan"))
    again.step += 1
    again.governor.observe_replayed(torch.tensor(0.5), again.step, first.incidents)
    assert again.incidents == first.incidents
    assert_same(weights(again), weights(first))


def test_a_recorded_incident_without_its_snapshot_is_refused(
    plot: GovernedPlot,
) -> None:
    plot.plant("fc1", 0, "low-rank-skip")
    plot.train(1)
    incident = Incident(kind=IncidentKind.NAN, step=42, restored_step=10)
    incident = incident.model_copy(
        update={
            "seeds": (RolledBackSeed(site="fc1", slot=0, kernel_id="0" * 64, decision_id="0" * 64),)
        }
    )
    with pytest.raises(ValueError, match="returned to step 10, of which there is no snapshot"):
        plot.governor.observe_replayed(torch.tensor(0.5), 42, [incident])


def test_a_loss_on_the_cpu_is_returned_immediately() -> None:
    buffer = LossBuffer(4)
    assert buffer.read(torch.tensor(0.5, requires_grad=True), now=False) == [0.5]
