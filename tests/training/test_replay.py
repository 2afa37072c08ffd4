"""Replays of a run with every kind of event; the test acts as bandit and compile worker."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

import esper
from esper.audit import fetch_history, with_kernels, write_history
from esper.settings import Settings
from esper.topics.catalog import RUN_CONTROL
from esper.topics.codec import decode, sha256_of
from esper.topics.models import (
    Cull,
    Fossilize,
    Operation,
    OutcomeStatus,
    RequestKind,
    Reweight,
    RunRequest,
    SeedReport,
    SeedState,
    SeedStatus,
)
from esper.training import CheckpointRefused, ReplayDiffers, ReplayRefused, RunRecording
from esper.training.recording import read_recording
from esper.training.replay import differences
from tests.seed.hosts import Host, images, labels
from tests.training.fake_workers import Outside
from tests.training.test_checkpoint import (
    REPORT_EVERY,
    WAIT_S,
    Bandit,
    Noisy,
    Preempted,
    Training,
    assert_same_state,
    interrupted,
)


class Numbered(Bandit):
    """Publishes decisions of a test; every decision answers another report."""

    _answered = -1

    def publish(self, *operations: Operation) -> str:
        """Train until a report has no decision yet; publish one and return its id."""
        while self._last_seq() == self._answered:
            self._training.train_to_a_report()
        name = super().publish(*operations)
        self._answered = self._outside.decided[self.run_id][-1].seq
        return name

    def _last_seq(self) -> int:
        return decode(SeedReport, self._outside.last_report(self.run_id).value).seq

    def decide_in_vain(self, *operations: Operation) -> str:
        """Publish a decision, train until it is refused or withheld; return the status."""
        name = self.publish(*operations)
        outcomes = self._training.growth.run_history.outcomes
        self._training.train_until(lambda: name in outcomes)
        assert outcomes[name].status is not OutcomeStatus.APPLIED
        return outcomes[name].status

    def ask(self, kind: RequestKind) -> None:
        """Publish a request and train until the run has received it."""
        request_id = sha256_of(f"{self.run_id} {kind}".encode())
        request = RunRequest(request_id=request_id, run_id=self.run_id, kind=kind)
        self._outside.publish(RUN_CONTROL, request)
        pauses = kind is RequestKind.PAUSE
        self._training.train_until(lambda: self._training.growth.paused is pauses)


@dataclass(frozen=True)
class Recorded:
    """A run that has ended, its recording, and its arguments."""

    training: Training
    recording: RunRecording
    steps: int
    no_number: frozenset[int]


class Again:
    """The same training, replayed from a recording: same seed and batches, no services."""

    def __init__(self, recorded: Recorded, recording: RunRecording | None = None, **other: Any):
        torch.manual_seed(0)
        self.model = other.pop("model", None) or Noisy()
        self.optimizer = Adam(self.model.parameters(), lr=other.pop("lr", 0.01))
        self.no_number = recorded.no_number
        self.probe = images(20), labels(20)
        made: dict[str, Any] = {
            "sites": ["conv", "fc1"],
            "probe": self.probe,
            "loss_fn": F.cross_entropy,
        }
        self.growth = esper.replay(
            recording or recorded.recording, self.model, self.optimizer, **(made | other)
        )
        self.steps = 0

    def train(self, until: int) -> None:
        while self.steps < until:
            self.steps += 1
            torch.manual_seed(self.steps)
            self.growth.step(self._stepped())

    def _stepped(self) -> Tensor:
        x, y = images(16, seed=self.steps), labels(16, seed=self.steps)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.tensor(torch.nan) if self.steps in self.no_number else loss


class Seeded(Training):
    """A training whose random numbers depend on the step, because the test draws some too."""

    def train(self, until: int) -> None:
        """Train up to a step."""
        while self.steps < until:
            torch.manual_seed(self.steps + 1)
            super().train(self.steps + 1)


def recording_of(training: Training, settings: Settings, folder: Path) -> RunRecording:
    """Return the recording of a run that has ended, written to a file and read back."""
    servers = settings.kafka_bootstrap_servers
    history = with_kernels(servers, fetch_history(servers, training.growth.run_id))
    write_history(history, folder / "history.jsonl")
    return read_recording(folder / "history.jsonl", settings=settings)


@pytest.fixture(scope="module")
def module_outside(settings: Settings) -> Iterator[Outside]:
    opened = Outside(settings)
    opened.seal_closing_runs()
    yield opened
    opened.bus.close()


@pytest.fixture(scope="module")
def eventful(
    settings: Settings, module_outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Recorded:
    """Return a run with plants, a refusal, a merge, a reweight, culls, a pause and a rollback."""
    training = Seeded(settings, seal_timeout_s=WAIT_S)
    bandit = Numbered(module_outside, training)
    bandit.offer()
    bandit.decide(bandit.plant("fc1", 0, "low-rank-skip"))
    assert bandit.decide_in_vain(bandit.plant("fc1", 0, "gated-linear-unit")) == "refused"
    training.train_until(lambda: bandit.active("fc1", 0))
    bandit.decide(bandit.plant("conv", 1, "conv-bottleneck"))
    bandit.decide(bandit.of(Fossilize, "fc1", 0, "low-rank-skip"))
    bandit.ask(RequestKind.PAUSE)
    training.train_until(lambda: bandit.active("conv", 1))
    bandit.ask(RequestKind.RESUME)
    active = bandit.of(Cull, "conv", 1, "conv-bottleneck").model_dump(exclude={"op"})
    bandit.decide(Reweight(**active, alpha=0.5, ramp_steps=7))
    bandit.decide(bandit.of(Cull, "conv", 1, "conv-bottleneck"))
    culled = training.growth.sites["conv"].slots[1]
    training.train_until(lambda: culled.state is SeedState.DORMANT)
    bandit.decide(bandit.plant("conv", 1, "conv-bottleneck"))
    bandit.decide(bandit.plant("fc1", 2, "gated-linear-unit"))
    training.train(training.steps + 1)
    training.no_number.add(training.steps + 1)
    training.train(training.steps + 1)
    assert training.growth.run_history.incidents
    bandit.decide(bandit.plant("fc1", 1, "gated-linear-unit"))
    training.train(training.steps + 12)
    training.growth.close()
    assert training.growth.run_history.sealed
    assert training.growth.run_history.merged
    recording = recording_of(training, settings, tmp_path_factory.mktemp("eventful"))
    return Recorded(training, recording, training.steps, frozenset(training.no_number))


def test_the_recording_has_every_kind_of_event(eventful: Recorded) -> None:
    reports = eventful.recording.reports
    assert any(report.incidents for report in reports)
    assert any(report.paused for report in reports)
    assert any(report.requests for report in reports)
    assert {outcome.status for outcome in eventful.recording.outcomes.values()} == {
        OutcomeStatus.APPLIED,
        OutcomeStatus.REFUSED,
    }


def test_a_replay_repeats_the_run_bit_for_bit(eventful: Recorded) -> None:
    again = Again(eventful)
    with again.growth:
        again.train(eventful.steps)
        assert again.growth.replayed
    assert_same_state(again.model, eventful.training.model)
    ours = again.optimizer.state_dict()["state"]
    theirs = eventful.training.optimizer.state_dict()["state"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert again.growth.run_history == eventful.training.growth.run_history


@pytest.mark.parametrize(
    "setting", [{"report_every": 7}, {"slots": 1}, {"seed": 9}, {"config": esper.GrowConfig()}]
)
def test_a_setting_that_the_recording_holds_cannot_be_given(
    eventful: Recorded, setting: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Again(eventful, **setting)


def at_step(recording: RunRecording, shift: int) -> tuple[RunRecording, int]:
    """Return the recording with the last applied decision moved by `shift` steps, and its step."""
    name, outcome = [
        item for item in recording.outcomes.items() if item[1].status is OutcomeStatus.APPLIED
    ][-1]
    moved = outcome.model_copy(update={"step": outcome.step + shift})
    return replace(recording, outcomes={**recording.outcomes, name: moved}), outcome.step


@pytest.mark.parametrize("shift", [-1, 1])
def test_one_decision_at_another_step_leads_to_other_weights_and_a_difference(
    eventful: Recorded, shift: int
) -> None:
    recording, step = at_step(eventful.recording, shift)
    with pytest.raises(ReplayDiffers, match=r"differs: report \d+, step \d+: the ") as raised:
        other = Again(eventful, recording)
        other.train(eventful.steps)
    first = raised.value.difference
    assert first is not None
    assert min(step, step + shift) <= first.step <= step + REPORT_EVERY
    faithful = Again(eventful)
    faithful.train(other.steps)
    ours, theirs = other.model.state_dict(), faithful.model.state_dict()
    # At a report the seed may exist in one model only.
    assert ours.keys() != theirs.keys() or any(
        not torch.equal(value, theirs[name]) for name, value in ours.items()
    )


@pytest.mark.parametrize(
    ("other", "report", "what"),
    [
        ({"lr": 0.02}, 1, "the training loss"),
        ({"probe": (images(20, seed=1), labels(20))}, 0, "the probe loss"),
    ],
)
def test_another_training_differs_at_the_first_report_that_shows_it(
    eventful: Recorded, other: dict[str, Any], report: int, what: str
) -> None:
    with pytest.raises(ReplayDiffers) as raised:
        Again(eventful, **other).train(eventful.steps)
    first = raised.value.difference
    assert first is not None
    assert (first.report, first.what) == (report, what)
    assert first.recorded != first.replayed


def test_a_replay_without_the_governor_differs_at_its_incident(
    eventful: Recorded,
) -> None:
    step = next(
        incident.step for report in eventful.recording.reports for incident in report.incidents
    )
    with pytest.raises(ReplayDiffers) as raised:
        Again(eventful, governor=False).train(eventful.steps)
    first = raised.value.difference
    assert first is not None
    assert step <= first.step <= step + REPORT_EVERY


def test_a_missing_loading_seed_is_no_difference_and_a_missing_blending_seed_is_one(
    eventful: Recorded,
) -> None:
    recorded, made = (eventful.recording.reports[1].model_copy(update={"seeds": ()}),) * 2
    for state, seen in ((SeedState.LOADING, []), (SeedState.BLENDING, ["blending"])):
        seed = SeedStatus(site="fc1", slot=0, state=state)
        recorded = recorded.model_copy(update={"seeds": (seed,)})
        found = {one.what: one.recorded for one in differences(recorded, made)}
        assert [found[what] for what in found if what == "the state of seed fc1/0"] == seen


def test_a_replay_with_too_few_or_too_many_steps_differs(eventful: Recorded) -> None:
    short = Again(eventful)
    short.train(eventful.steps - 1)
    with pytest.raises(ReplayDiffers, match="the training ends after step"):
        short.growth.close()
    long = Again(eventful)
    with pytest.raises(ReplayDiffers, match=f"at step {eventful.steps} the record ended there"):
        long.train(eventful.steps + 1)


def test_an_error_in_the_loop_is_raised_unchanged(eventful: Recorded) -> None:
    again = Again(eventful)
    with pytest.raises(Preempted), again.growth:
        again.train(3)
        raise Preempted


def test_another_model_or_other_sites_are_refused(eventful: Recorded) -> None:
    for other in ({"model": Host(width=9)}, {"sites": ["conv"]}):
        with pytest.raises(ReplayRefused, match="is of another model or of other sites"):
            Again(eventful, **other)


def test_a_replay_has_no_checkpoint(eventful: Recorded) -> None:
    with pytest.raises(CheckpointRefused, match="a replay has no checkpoints"):
        Again(eventful).growth.state_dict()


def test_an_aborted_run_is_replayed_up_to_its_end(
    settings: Settings, module_outside: Outside, tmp_path: Path
) -> None:
    training = Seeded(settings, seal_timeout_s=WAIT_S)
    bandit = Numbered(module_outside, training)
    bandit.offer()
    bandit.decide(bandit.plant("fc1", 0, "gated-linear-unit"))
    training.train(training.steps + 7)
    interrupted(training)
    recording = recording_of(training, settings, tmp_path)
    assert recording.reports[-1].probe_loss is None
    recorded = Recorded(training, recording, training.steps, frozenset())
    again = Again(recorded)
    with again.growth:
        again.train(recorded.steps)
    assert_same_state(again.model, training.model)


def test_a_run_that_was_never_closed_is_replayed_up_to_its_last_record(
    settings: Settings, module_outside: Outside, tmp_path: Path
) -> None:
    training = Seeded(settings)
    bandit = Numbered(module_outside, training)
    bandit.offer()
    bandit.decide(bandit.plant("fc1", 0, "gated-linear-unit"))
    training.train_to_a_report()
    training.saved()
    steps = training.steps
    interrupted(training)
    recorded = Recorded(training, recording_of(training, settings, tmp_path), steps, frozenset())
    assert not recorded.recording.closed
    again = Again(recorded)
    again.train(recorded.recording.last_step)
    assert again.growth.replayed
    with pytest.raises(ReplayDiffers, match="the record says no more"):
        again.train(steps + REPORT_EVERY)


def test_a_dry_run_is_replayed_as_its_unchanged_host(
    settings: Settings, module_outside: Outside, tmp_path: Path
) -> None:
    training = Seeded(settings, seal_timeout_s=WAIT_S, dry_run=True)
    bandit = Numbered(module_outside, training)
    bandit.offer()
    plan = bandit.plant("fc1", 0, "gated-linear-unit")
    assert bandit.decide_in_vain(plan) == "withheld"
    training.train_to_a_report()
    training.growth.close()
    recording = recording_of(training, settings, tmp_path)
    assert recording.kernels == {}
    recorded = Recorded(training, recording, training.steps, frozenset())
    again = Again(recorded)
    with again.growth:
        again.train(recorded.steps)
    assert_same_state(again.model, training.model)
    assert again.growth.run_history.outcomes == training.growth.run_history.outcomes
