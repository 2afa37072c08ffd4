"""Resuming from a checkpoint on a real broker; the test acts as bandit and compile worker."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

import esper
from esper.seed import BANK_NAME
from esper.settings import Settings
from esper.topics.catalog import KERNEL_READY, TRAINING_RUN
from esper.topics.models import (
    Cull,
    Fossilize,
    Incident,
    Operation,
    OutcomeStatus,
    PolicySpec,
    RunStatus,
    SeedState,
    Selection,
)
from esper.training import CheckpointRefused, RecordUnfit
from tests.seed.hosts import Host, host, images, labels
from tests.seed.kernels import announced
from tests.training.fake_workers import WAIT_S, Outside
from tests.training.grow_fixture import attach, decision, kernel_id, planting

REPORT_EVERY = 5
BLUEPRINTS = {"conv": "conv-bottleneck", "fc1": "gated-linear-unit", "merges": "low-rank-skip"}
State = dict[str, Any]


class Preempted(Exception):
    """An error that ends a training from outside."""


class Noisy(Host):
    """A host that draws random numbers in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


class Training:
    """A growing host, trained step by step; the step number determines the batch."""

    def __init__(self, settings: Settings, saved: bytes | None = None, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.model = Noisy()
        self.optimizer = Adam(self.model.parameters(), lr=0.01)
        state: State = torch.load(io.BytesIO(saved), weights_only=True) if saved else {}
        made: dict[str, Any] = {"sites": ["conv", "fc1"], "report_every": REPORT_EVERY, "slots": 3}
        made["seal_timeout_s"] = 0.3
        self.growth = attach(
            self.model,
            self.optimizer,
            probe=(images(20), labels(20)),
            loss_fn=F.cross_entropy,
            run="checkpoint",
            settings=settings,
            state=state.get("growth"),
            **(made | arguments),
        )
        self.steps = 0
        self.no_number: set[int] = set()
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps = state["steps"]

    def train(self, until: int) -> None:
        """Train up to a step, slowly enough for decisions to arrive."""
        while self.steps < until:
            self.steps += 1
            x, y = images(16, seed=self.steps), labels(16, seed=self.steps)
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            spoilt = self.steps in self.no_number
            self.growth.step(torch.tensor(torch.nan) if spoilt else loss)

    def train_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.train(self.steps + 1)
            time.sleep(0.002)

    def train_to_a_report(self) -> None:
        """Train until the broker has the report of the last step."""
        reporter = self.growth._session.reporter
        before = reporter.next_seq
        self.train_until(lambda: reporter.next_seq > before)
        assert self.growth._session.link.wait_to_report(time.monotonic() + WAIT_S)

    def saved(self) -> bytes:
        file = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "growth": self.growth.state_dict(),
            "steps": self.steps,
        }
        torch.save(state, file)
        return file.getvalue()

    def seen(self) -> dict[str, Any]:
        """Return all state that a resumed training must repeat."""
        slots = [slot for site in self.growth.sites.values() for slot in site.slots]
        return {
            "steps": self.steps,
            "slots": [
                (slot.site, slot.index, slot.state, slot.planted, slot.decision_id, slot.since_step)
                for slot in slots
            ],
            "merged": [slot.merged_sha256 for slot in slots],
            "lives": self.growth.run_history.seed_records(),
        }


class Bandit:
    """Publishes decisions of a test in one run."""

    def __init__(self, outside: Outside, training: Training) -> None:
        self._outside, self._training = outside, training
        self.run_id = training.growth.run_id

    def offer(self) -> None:
        """Announce kernels and train until they are loadable."""
        sites, offered = self._training.growth.sites, self._training.growth.run_history.kernels
        for name, blueprint in BLUEPRINTS.items():
            signature = sites["fc1" if name == "merges" else name].signature
            ready = announced(self._outside.store, blueprint, signature)
            self._outside.publish(KERNEL_READY, ready)
            self._training.train_until(lambda ready=ready: ready.kernel_id in offered)

    def publish(self, *operations: Operation) -> str:
        """Publish a decision and return its id."""
        return self._outside.decide(decision(*operations, run_id=self.run_id)).decision_id

    def decide(self, *operations: Operation) -> None:
        """Publish a decision, and train until it is applied."""
        name = self.publish(*operations)
        outcomes = self._training.growth.run_history.outcomes
        self._training.train_until(lambda: name in outcomes)
        assert outcomes[name].status is OutcomeStatus.APPLIED

    def plant(self, site: str, slot: int, blueprint: str) -> Operation:
        return planting(self._training.growth.sites[site], slot, blueprint, ramp_steps=8)

    def active(self, site: str, slot: int) -> bool:
        return self._training.growth.sites[site].slots[slot].state is SeedState.ACTIVE

    def of(self, kind: type[Cull] | type[Fossilize], site: str, slot: int, what: str) -> Operation:
        signature = self._training.growth.sites[site].signature
        return kind(site=site, slot=slot, kernel_id=kernel_id(what, signature))


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def interrupted(training: Training) -> None:
    """End a training by an error in its loop."""
    with pytest.raises(Preempted), training.growth:
        raise Preempted


def grown_until_checkpoint(settings: Settings, outside: Outside) -> tuple[Training, Bandit, bytes]:
    """Return a training with an active and a blending seed, its bandit, and its checkpoint."""
    training = Training(settings)
    bandit = Bandit(outside, training)
    bandit.offer()
    bandit.decide(bandit.plant("fc1", 0, "low-rank-skip"))
    training.train_until(lambda: bandit.active("fc1", 0))
    bandit.decide(bandit.plant("conv", 1, "conv-bottleneck"))
    training.train(training.steps + 2)
    saved = training.saved()
    assert training.growth.sites["conv"].slots[1].state is SeedState.BLENDING
    return training, bandit, saved


def test_a_resumed_training_repeats_the_steps_after_the_checkpoint_bit_for_bit(
    settings: Settings, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, bandit, saved = grown_until_checkpoint(settings, outside)
    at_checkpoint = first.seen()
    bandit.decide(bandit.of(Fossilize, "fc1", 0, "low-rank-skip"))
    bandit.decide(bandit.plant("fc1", 1, "gated-linear-unit"))
    first.train_until(lambda: bandit.active("conv", 1))
    bandit.decide(bandit.of(Cull, "conv", 1, "conv-bottleneck"))
    culled = first.growth.sites["conv"].slots[1]
    first.train_until(lambda: culled.state is SeedState.DORMANT)
    bandit.decide(bandit.plant("conv", 1, "conv-bottleneck"))
    first.train_to_a_report()
    expected = first.seen()
    assert any(expected["merged"])
    interrupted(first)

    # One message for each step: a slow machine reads no more in the time that a step may take.
    monkeypatch.setattr("esper.training.link.MAIL_LIMIT_S", 0.0)
    second = Training(settings, saved)
    assert second.growth.run_id == first.growth.run_id
    assert second.seen() == at_checkpoint
    second.train(first.steps)
    assert second.seen() == expected
    assert_same_state(first.model, second.model)
    ours, theirs = first.optimizer.state_dict(), second.optimizer.state_dict()
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    second.growth.close()
    reports = outside.reports(first.growth.run_id)
    assert [report.seq for report in reports] == list(range(len(reports)))
    assert reports[-1].closing
    assert outside.repeats(first.growth.run_id) == 0
    outcomes = [outcome.decision_id for report in reports for outcome in report.outcomes]
    assert len(outcomes) == len(set(outcomes)) == 6


def test_a_pending_decision_is_applied_after_resuming(settings: Settings, outside: Outside) -> None:
    first, bandit, saved = grown_until_checkpoint(settings, outside)
    first.train_to_a_report()
    name = bandit.publish(bandit.plant("fc1", 1, "gated-linear-unit"))
    interrupted(first)
    second = Training(settings, saved)
    second.train(first.steps)
    assert name not in second.growth.run_history.outcomes
    assert_same_state(first.model, second.model)
    second.train_until(lambda: name in second.growth.run_history.outcomes)
    assert second.growth.sites["fc1"].seed(1).kernel.kernel_id
    second.growth.close()


def test_checkpoints_of_the_first_step_and_of_a_resumed_training_can_be_resumed(
    settings: Settings, outside: Outside
) -> None:
    first = Training(settings)
    saved = first.saved()
    first.train(7)
    interrupted(first)
    second = Training(settings, saved)
    second.train(3)
    again = second.saved()
    interrupted(second)
    third = Training(settings, again)
    third.train(7)
    assert_same_state(first.model, third.model)
    third.growth.close()


def test_a_run_that_ends_with_an_error_stays_open_only_if_it_has_a_checkpoint(
    settings: Settings, outside: Outside
) -> None:
    with_checkpoint, without = Training(settings), Training(settings)
    with_checkpoint.saved()
    interrupted(with_checkpoint)
    interrupted(without)
    assert outside.status(with_checkpoint.growth.run_id) is RunStatus.OPEN
    assert not outside.reports(with_checkpoint.growth.run_id)[-1].closing
    assert outside.status(without.growth.run_id) is RunStatus.CLOSED


@pytest.mark.parametrize("steps_after", [0, 3, 10])
def test_a_closed_run_is_completed_but_does_not_go_on(
    settings: Settings, outside: Outside, steps_after: int
) -> None:
    """A process may end after the report that closes its run, and before it writes the result."""
    outside.seal_closing_runs()
    first, _, saved = grown_until_checkpoint(settings, outside)
    last_step = first.steps + steps_after
    first.train(last_step)
    session = first.growth._session
    first.growth.close()
    reports = outside.reports(session.run.run_id)
    outside.bus.publish(TRAINING_RUN, session.run).result(WAIT_S)  # It did not come to say so.
    second = Training(settings, saved, seal_timeout_s=WAIT_S)
    second.train(last_step)
    assert_same_state(first.model, second.model)
    second.growth.close()
    assert second.growth.run_history.sealed
    assert outside.reports(session.run.run_id) == reports
    assert outside.status(session.run.run_id) is RunStatus.CLOSED
    third = Training(settings, saved)
    third.train(last_step)
    with pytest.raises(CheckpointRefused, match=r"closed by report \d+ and cannot go on; start"):
        third.train(last_step + 1)
    third.growth.close()


def test_a_resumed_training_that_ends_before_the_earlier_end_leaves_the_run_open(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    first = Training(settings)
    saved = first.saved()
    first.train_to_a_report()
    interrupted(first)
    second = Training(settings, saved)
    second.train(1)
    second.growth.close()
    assert "is left open, to be resumed from a checkpoint" in caplog.text
    assert not outside.reports(first.growth.run_id)[-1].closing


def test_resuming_without_loading_the_weights_is_reported_immediately(
    settings: Settings, outside: Outside
) -> None:
    first, _, saved = grown_until_checkpoint(settings, outside)
    interrupted(first)
    state = torch.load(io.BytesIO(saved), weights_only=True)
    second = Training(settings)
    second.growth.close()
    model = Noisy()
    growth = esper.resume(
        state["growth"],
        model,
        Adam(model.parameters(), lr=0.01),
        sites=["conv", "fc1"],
        probe=(images(20), labels(20)),
        loss_fn=F.cross_entropy,
        config=esper.GrowConfig(seal_timeout_s=0.3, settings=settings),
    )
    assert model(images()).isnan().any()
    growth.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"sites": ["conv"]}, "of another model or of other sites"),
        ({"selection": Selection()}, "made with other settings: selection; leave them out or"),
        (
            {"policy": PolicySpec(name="thompson-gaussian"), "family": "other", "lockstep": True},
            "made with other settings: family, lockstep, policy; leave them out or",
        ),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    settings: Settings, arguments: dict[str, Any], why: str
) -> None:
    first = Training(settings)
    saved = first.saved()
    interrupted(first)
    with pytest.raises(CheckpointRefused, match=why):
        Training(settings, saved, **arguments)


@pytest.mark.parametrize("setting", ["run", "report_every", "slots", "seed"])
def test_a_setting_that_the_checkpoint_holds_cannot_be_given(setting: str) -> None:
    given: dict[str, Any] = {"sites": [], "probe": (images(4), labels(4)), "loss_fn": None}
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{setting}'"):
        esper.resume({}, host(), None, **given, **{setting: 1})  # type: ignore[arg-type]


def test_a_checkpoint_without_a_selection_is_resumed_without_one(
    settings: Settings,
) -> None:
    first = Training(settings)
    saved = torch.load(io.BytesIO(first.saved()), weights_only=True)
    interrupted(first)
    growth_state = json.loads(saved["growth"]["growth"])
    del growth_state["run_config"]["selection"], growth_state["run_config"]["sites"]
    saved["growth"]["growth"] = json.dumps(growth_state)
    file = io.BytesIO()
    torch.save(saved, file)
    with Training(settings, file.getvalue()).growth as growth:
        assert growth.run_id == first.growth.run_id


def test_a_state_that_is_not_a_checkpoint_is_refused(settings: Settings) -> None:
    model = host()
    with pytest.raises(CheckpointRefused, match=r"give what growth.state_dict\(\) returned"):
        esper.resume(
            {"model": {}},
            model,
            Adam(model.parameters()),
            sites=["conv"],
            probe=(images(4), labels(4)),
            loss_fn=F.cross_entropy,
            config=esper.GrowConfig(settings=settings),
        )


def test_a_run_without_reports_on_the_topic_cannot_be_resumed(settings: Settings) -> None:
    first = Training(settings)
    first.train_to_a_report()
    saved = first.saved()
    interrupted(first)
    state = torch.load(io.BytesIO(saved), weights_only=True)
    elsewhere = first.growth.run_id.replace("checkpoint", "elsewhere")
    state["growth"]["growth"] = state["growth"]["growth"].replace(first.growth.run_id, elsewhere)
    file = io.BytesIO()
    torch.save(state, file)
    with pytest.raises(RecordUnfit, match=f"report 0 of run {elsewhere} is no longer on the topic"):
        Training(settings, file.getvalue())


def rolled_back(training: Training, bandit: Bandit) -> Incident:
    """Plant a kernel, make the loss NaN, and return the reported incident."""
    bandit.decide(bandit.plant("fc1", 2, "gated-linear-unit"))
    training.train(training.steps + 1)
    training.no_number.add(training.steps + 1)
    training.train(training.steps + 1)
    (incident,) = training.growth.run_history.incidents
    assert "fc1" in {seed.site for seed in incident.seeds}
    training.train_to_a_report()
    return incident


def test_a_rollback_after_the_checkpoint_is_repeated_bit_for_bit(
    settings: Settings, outside: Outside
) -> None:
    first = Training(settings)
    bandit = Bandit(outside, first)
    bandit.offer()
    saved, at = first.saved(), first.steps
    first.train(at + 2 * REPORT_EVERY)
    incident = rolled_back(first, bandit)
    assert incident.restored_step is not None
    assert incident.restored_step > at
    interrupted(first)
    second = Training(settings, saved)
    second.train(first.steps)
    assert second.growth.run_history.incidents == [incident]
    assert second.seen() == first.seen()
    assert_same_state(first.model, second.model)
    ours, theirs = first.optimizer.state_dict(), second.optimizer.state_dict()
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    second.growth.close()
    reports = outside.reports(first.growth.run_id)
    assert [found for report in reports for found in report.incidents] == [incident]
    assert outside.repeats(first.growth.run_id) == 0


def test_a_rollback_to_before_the_checkpoint_is_refused(
    settings: Settings, outside: Outside
) -> None:
    first = Training(settings)
    bandit = Bandit(outside, first)
    bandit.offer()
    bandit.decide(bandit.plant("fc1", 2, "gated-linear-unit"))
    saved = first.saved()
    first.train(first.steps + 1)
    first.no_number.add(first.steps + 1)
    first.train(first.steps + 1)
    first.train_to_a_report()
    interrupted(first)
    second = Training(settings, saved)
    with pytest.raises(CheckpointRefused, match="there is no snapshot here; resume from a check"):
        second.train(first.steps)
    second.growth.close()


def test_a_checkpoint_after_a_rollback_is_resumed_and_reports_the_incident_once(
    settings: Settings, outside: Outside
) -> None:
    first = Training(settings)
    bandit = Bandit(outside, first)
    bandit.offer()
    incident = rolled_back(first, bandit)
    saved = first.saved()
    interrupted(first)
    second = Training(settings, saved)
    assert second.growth.run_history.incidents == [incident]
    second.train_to_a_report()
    second.growth.close()
    reports = outside.reports(first.growth.run_id)
    assert [found for report in reports for found in report.incidents] == [incident]


def test_a_checkpoint_contains_no_model_weights(settings: Settings, outside: Outside) -> None:
    """The weights are in the model's state dict; a second copy could differ."""
    first, _, saved = grown_until_checkpoint(settings, outside)
    interrupted(first)
    state = torch.load(io.BytesIO(saved), weights_only=True)
    assert any(BANK_NAME in name for name in state["model"])
    assert set(state["growth"]) <= {"growth", "rng", "cuda_rng"}
