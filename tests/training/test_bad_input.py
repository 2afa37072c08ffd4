"""Errors in a decision, a loss, a probe or the user's loop, on a real broker: one line names the
error, and the model stays intact."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from esper.settings import Settings
from esper.topics.catalog import KERNEL_READY
from esper.topics.models import (
    Cull,
    DecisionOutcome,
    KernelReady,
    OutcomeStatus,
    RunStatus,
    SeedState,
)
from esper.training import LossRefused
from esper.training.probe import ProbeRefused
from esper.workers.local import KafkaService
from tests.seed.hosts import host, images, labels
from tests.seed.kernels import announced
from tests.training.fake_workers import WAIT_S, Outside
from tests.training.grow_fixture import ZEROS, attach, decision, planting

S = SeedState
APPLIED, REFUSED = OutcomeStatus.APPLIED, OutcomeStatus.REFUSED


class Run:
    """A growing host, trained step by step; the test acts as bandit and compile worker."""

    def __init__(self, settings: Settings, outside: Outside, **arguments: Any) -> None:
        self.settings, self.outside = settings, outside
        self.model = host()
        self.optimizer = Adam(self.model.parameters(), lr=0.01)
        arguments = {"probe": (images(20), labels(20)), "loss_fn": F.cross_entropy} | arguments
        self.growth = attach(
            self.model,
            self.optimizer,
            sites=["conv", "fc1"],
            run="test",
            report_every=2,
            seal_timeout_s=0.2,
            settings=settings,
            **arguments,
        )
        self.sites = self.growth.sites
        self.steps = 0

    def forward_and_back(self) -> torch.Tensor:
        loss = F.cross_entropy(self.model(images(16)), labels(16))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.growth.step(self.forward_and_back())
            self.steps += 1

    def train_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.train()
            time.sleep(0.002)

    def offered(self, blueprint: str = "low-rank-skip") -> KernelReady:
        """Announce a kernel for fc1 and train until it is loadable."""
        ready = announced(self.outside.store, blueprint, self.sites["fc1"].signature)
        self.outside.publish(KERNEL_READY, ready)
        self.train_until(lambda: ready.kernel_id in self.growth.run_history.kernels)
        return ready

    def decide(self, *operations: Any) -> str:
        """Publish a decision of this run; return its id."""
        plan = decision(*operations, run_id=self.growth.run_id)
        return self.outside.decide(plan).decision_id

    def plant(self, slot: int) -> str:
        """Publish a decision that plants the kernel at fc1; return its id."""
        operation = planting(self.sites["fc1"], slot, "low-rank-skip")
        return self.decide(operation)

    def outcome(self, decision_id: str) -> DecisionOutcome:
        """Train until a decision has an outcome; return the outcome."""
        answers = self.growth.run_history.outcomes
        self.train_until(lambda: decision_id in answers)
        return answers[decision_id]


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """Return a broker of this module, so that no other test gets a kernel without its file."""
    return own_kafka


@pytest.fixture
def run(settings: Settings, outside: Outside) -> Iterator[Run]:
    started = Run(settings, outside)
    yield started
    started.growth.close()


def assert_whole(model: nn.Module, optimizer: Optimizer) -> None:
    """Assert that the optimizer holds the model's parameters only, and that a step works."""
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}
    assert all(module.training for module in model.modules())
    loss = F.cross_entropy(model(images(16)), labels(16))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# -- decisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("site", "slot"), [("nowhere", 0), ("fc1", 99)])
def test_a_decision_for_an_unknown_seed_is_refused(run: Run, site: str, slot: int) -> None:
    outcome = run.outcome(run.decide(Cull(site=site, slot=slot, kernel_id=ZEROS)))
    assert (outcome.status, outcome.reason) == (
        REFUSED,
        f"there is no slot {site}/{slot} in this run; "
        "name one of the sites and slots of its run config",
    )
    assert_whole(run.model, run.optimizer)


def test_a_duplicate_decision_is_applied_and_answered_once(run: Run) -> None:
    run.offered()
    decided = run.plant(0)
    (event,) = run.outside.decided[run.growth.run_id]
    run.outside.send(event)
    assert run.outcome(decided).status is APPLIED
    run.train(20)
    run_id = run.growth.run_id
    answers = [outcome for report in run.outside.reports(run_id) for outcome in report.outcomes]
    assert [outcome.decision_id for outcome in answers] == [decided]
    assert_whole(run.model, run.optimizer)


def test_decisions_are_applied_in_the_order_of_the_topic(run: Run) -> None:
    run.offered()
    first, second = run.plant(1), run.plant(0)
    assert run.outcome(second).status is APPLIED
    assert list(run.growth.run_history.outcomes) == [first, second]
    assert_whole(run.model, run.optimizer)


def test_a_decision_after_the_end_of_the_run_changes_nothing(run: Run) -> None:
    run.offered()
    run.growth.close()
    run.plant(0)
    time.sleep(0.2)
    assert not list(run.sites["fc1"].seeds())
    assert_whole(run.model, run.optimizer)


def test_a_kernel_without_its_file_and_the_plan_that_plants_it_are_refused(run: Run) -> None:
    ready = announced(run.outside.store, "gated-linear-unit", run.sites["fc1"].signature)
    (artifact,) = (run.settings.home / "kernels" / ready.kernel_id).iterdir()
    artifact.unlink()
    run.outside.publish(KERNEL_READY, ready)
    run_id = run.growth.run_id
    run.train_until(lambda: any(report.refusals for report in run.outside.reports(run_id)))
    (refusal,) = (refusal for report in run.outside.reports(run_id) for refusal in report.refusals)
    assert refusal.kernel_id == ready.kernel_id
    operation = planting(run.sites["fc1"], 0, "gated-linear-unit")
    outcome = run.outcome(run.decide(operation))
    assert outcome.status is REFUSED
    assert run.sites["fc1"].slots[0].state is S.DORMANT
    assert_whole(run.model, run.optimizer)


# -- losses and probes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (None, "was given NoneType; give the loss of the step as the scalar tensor that backward"),
        (0.5, "was given float; give the loss of the step as the scalar tensor that backward"),
        (torch.ones(3), r"was given a tensor of shape \(3,\); give .* as a scalar, such as its me"),
    ],
)
def test_an_invalid_loss_is_refused_before_the_step(run: Run, loss: Any, complaint: str) -> None:
    run.train(3)
    with pytest.raises(LossRefused, match=complaint) as raised:
        run.growth.step(loss)
    assert "\n" not in str(raised.value)
    run.train(3)
    run.growth.close()
    assert run.outside.reports(run.growth.run_id)[-1].step == run.steps
    assert_whole(run.model, run.optimizer)


@pytest.mark.parametrize("spoilt", ["inputs", "targets"])
def test_a_probe_with_a_value_that_is_not_finite_is_refused(
    settings: Settings, outside: Outside, spoilt: str
) -> None:
    probe = {"inputs": images(20), "targets": torch.zeros(20, 3)}
    probe[spoilt][7, 1] = torch.nan
    with pytest.raises(ProbeRefused, match=f"the probe's {spoilt} hold values that are not finite"):
        Run(settings, outside, probe=tuple(probe.values()), loss_fn=F.mse_loss)


def test_a_probe_of_one_sample_measures(settings: Settings, outside: Outside) -> None:
    run = Run(settings, outside, probe=(images(1), labels(1)))
    with run.growth:
        run.offered()
        assert run.outcome(run.plant(0)).status is APPLIED
        run.train(10)
    last = outside.reports(run.growth.run_id)[-1]
    assert last.probe_loss is not None
    assert last.seeds[0].contribution is not None


def test_a_loss_function_that_gives_a_number_is_refused(
    settings: Settings, outside: Outside
) -> None:
    with pytest.raises(ProbeRefused, match="loss_fn returned float; return the mean loss as a"):
        Run(settings, outside, loss_fn=lambda output, target: 0.5)


# -- the user's loop ----------------------------------------------------------------------------


def test_an_error_in_the_loop_keeps_the_grown_model_intact(
    settings: Settings, outside: Outside
) -> None:
    run = Run(settings, outside)
    with pytest.raises(ZeroDivisionError), run.growth:
        run.offered()
        run.outcome(run.plant(0))
        weights = {name: value.clone() for name, value in run.model.state_dict().items()}
        _ = 1 / 0
    assert run.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(run.model.state_dict()[name], weights[name]) for name in weights)
    assert len(list(run.sites["fc1"].seeds())) == 1
    assert outside.status(run.growth.run_id) is RunStatus.CLOSED
    assert_whole(run.model, run.optimizer)


@contextmanager
def interrupted_in(file: str, function: str) -> Iterator[None]:
    """Raise KeyboardInterrupt once, at the first executed line of a function of Esper."""
    over = False

    def look(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal over
        code = frame.f_code
        if not over and code.co_name == function and code.co_filename.endswith(file):
            over = True
            raise KeyboardInterrupt
        return None

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)
    assert over, f"{function} was never called"


@pytest.mark.parametrize(
    ("file", "function", "grown"),
    [
        ("training/decision_queue.py", "process", 0),
        ("training/seed_parameters.py", "plant", 0),
        ("training/optimizer.py", "add", 0),
        ("training/alpha_ramps.py", "advance", 1),
        ("training/probe.py", "_outputs", 1),
        ("training/link.py", "report", 1),
    ],
)
def test_ctrl_c_inside_a_step_ends_the_run_and_keeps_the_model_intact(
    settings: Settings, outside: Outside, file: str, function: str, grown: int
) -> None:
    run = Run(settings, outside)
    with pytest.raises(KeyboardInterrupt), run.growth:
        run.offered()
        if grown:
            run.outcome(run.plant(0))
        else:
            run.plant(0)
        with interrupted_in(file, function):
            run.train_until(lambda: False)
    assert len(list(run.sites["fc1"].seeds())) == grown
    assert outside.status(run.growth.run_id) is RunStatus.CLOSED
    assert_whole(run.model, run.optimizer)
