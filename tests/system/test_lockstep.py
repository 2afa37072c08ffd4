"""Lockstep runs on real services: equal seeds and blueprints give equal weights."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import esper
from esper.audit import AuditResult, audit, fetch_history
from esper.blueprint import shipped_named
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.topics.models import Operation
from esper.training import Growth
from esper.workers.cli import publish_blueprints
from esper.workers.local import KafkaService
from tests.seed.conftest import one_thread
from tests.system.conftest import Running

__all__ = ["one_thread"]

pytestmark = pytest.mark.timeout(600)

STEPS = 400
REPORT_EVERY = 5
BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "conv-bottleneck", "squeeze-excite")


@dataclass
class Ended:
    """The results of a lockstep run."""

    growth: Growth
    weights: dict[str, Tensor]
    audited: AuditResult

    @property
    def operations(self) -> list[tuple[int, Operation]]:
        """The applied operations with their steps."""
        run_history = self.growth.run_history
        return [
            (run_history.outcomes[decision.decision_id].step, operation)
            for decision in run_history.decisions
            for operation in decision.operations
        ]


def train(
    running: Running, seed: int, before: Callable[[int], object] = lambda step: None
) -> Ended:
    """Train a digits host in lockstep; `before` is called with the number of every step."""
    torch.manual_seed(seed)
    digits = load_digits()
    model = DigitsHost()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    images, labels = digits.train
    batches = torch.Generator().manual_seed(seed)
    with esper.grow(
        model,
        optimizer,
        sites=DIGITS.sites,
        probe=digits.probe,
        loss_fn=F.cross_entropy,
        run="lockstep",
        report_every=REPORT_EVERY,
        seed=seed,
        config=esper.GrowConfig(settings=running.settings, lockstep=True),
    ) as growth:
        for step in range(1, STEPS + 1):
            before(step)
            batch = torch.randint(len(images), (32,), generator=batches)
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            growth.step(loss)
    history = fetch_history(running.settings.kafka_bootstrap_servers, growth.run_id)
    return Ended(growth, model.state_dict(), audit(history))


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker without other tests' blueprints; a lockstep run starts with all published ones."""
    return own_kafka


@pytest.fixture(scope="module")
def twins(running: Running) -> tuple[Ended, Ended]:
    """Two runs with one seed; the kernels of the second exist when it starts."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    return train(running, seed=3), train(running, seed=3)


def test_two_runs_with_one_seed_end_with_equal_weights(twins: tuple[Ended, Ended]) -> None:
    first, second = twins
    assert first.weights.keys() == second.weights.keys()
    assert [
        name
        for name, value in first.weights.items()
        if not torch.equal(value, second.weights[name])
    ] == []


def test_both_runs_apply_equal_operations_at_equal_steps_and_plant_and_end_seeds(
    twins: tuple[Ended, Ended],
) -> None:
    first, second = twins
    assert first.operations == second.operations
    kinds = {operation.op for _, operation in first.operations}
    assert "plant" in kinds
    assert kinds & {"cull", "fossilize"}


def test_both_runs_are_audited_with_a_decision_for_every_report(
    twins: tuple[Ended, Ended],
) -> None:
    for run in twins:
        assert run.audited.finding is None
        assert run.audited.closed
        assert run.growth.run_history.sealed
        assert run.audited.reports == 1 + STEPS // REPORT_EVERY + 1
        assert run.audited.decisions >= run.audited.reports


@pytest.mark.heavy
def test_killing_the_bandit_worker_does_not_change_the_weights(
    running: Running, twins: tuple[Ended, Ended]
) -> None:
    def kill(step: int) -> None:
        if step == STEPS // 2 + 1:
            running.stack.kill("bandit")
            running.stack.restart("bandit")

    restarted = train(running, seed=3, before=kill)
    assert restarted.operations == twins[0].operations
    assert all(
        torch.equal(value, twins[0].weights[name]) for name, value in restarted.weights.items()
    )


@pytest.mark.heavy
def test_another_seed_ends_with_other_weights(running: Running, twins: tuple[Ended, Ended]) -> None:
    other = train(running, seed=4)
    shared = other.weights.keys() & twins[0].weights.keys()
    assert any(not torch.equal(other.weights[name], twins[0].weights[name]) for name in shared)
