"""Lockstep runs on real services: the same seed and blueprints give the same bits, every time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

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

STEPS = 400
REPORT_EVERY = 5
BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "conv-bottleneck", "squeeze-excite")


@dataclass
class Ended:
    """What is left of a lockstep run."""

    growth: Growth
    weights: dict[str, Tensor]
    audited: AuditResult
    report_ms: list[float] = field(default_factory=list)

    @property
    def operations(self) -> list[tuple[int, Operation]]:
        """All that was applied, each with its step."""
        run_history = self.growth.run_history
        return [
            (run_history.outcomes[decision.decision_id].step, operation)
            for decision in run_history.decisions
            for operation in decision.operations
        ]


def train(
    running: Running, seed: int, before: Callable[[int], object] = lambda step: None
) -> Ended:
    """Train a digits host in lockstep from a seed; `before` is called with each step."""
    torch.manual_seed(seed)
    digits = load_digits()
    model = DigitsHost()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    images, labels = digits.train
    batches = torch.Generator().manual_seed(seed)
    report_ms = []
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
            start = time.perf_counter()
            growth.step(loss)
            if step % REPORT_EVERY == 0:
                report_ms.append((time.perf_counter() - start) * 1000)
    history = fetch_history(running.settings.kafka_bootstrap_servers, growth.run_id)
    return Ended(growth, model.state_dict(), audit(history), report_ms)


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """No other test's blueprints: a lockstep run begins with all that were ever published."""
    return own_kafka


@pytest.fixture(scope="module")
def twins(running: Running) -> tuple[Ended, Ended]:
    """Two runs with the same seed: the kernels of the second were there when it began."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    return train(running, seed=3), train(running, seed=3)


def test_two_runs_with_one_seed_end_with_the_same_bits(twins: tuple[Ended, Ended]) -> None:
    first, second = twins
    assert first.weights.keys() == second.weights.keys()
    assert [
        name
        for name, value in first.weights.items()
        if not torch.equal(value, second.weights[name])
    ] == []


def test_both_did_the_same_at_the_same_steps_and_something_of_each_kind(
    twins: tuple[Ended, Ended],
) -> None:
    first, second = twins
    assert first.operations == second.operations
    kinds = {operation.op for _, operation in first.operations}
    assert "plant" in kinds
    assert kinds & {"cull", "fossilize"}


def test_both_are_audited_identical_with_an_answer_to_every_report(
    twins: tuple[Ended, Ended],
) -> None:
    for run in twins:
        assert run.audited.finding is None
        assert run.audited.closed
        assert run.growth.run_history.sealed
        assert run.audited.reports == 1 + STEPS // REPORT_EVERY + 1
        assert run.audited.decisions >= run.audited.reports
    print(
        "a lockstep report costs",
        [f"{statistics.median(run.report_ms):.1f} ms" for run in twins],
    )


@pytest.mark.timeout(240)
def test_a_bandit_worker_that_dies_on_the_way_leaves_the_bits_as_they_are(
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


def test_another_seed_ends_with_other_bits(running: Running, twins: tuple[Ended, Ended]) -> None:
    other = train(running, seed=4)
    shared = other.weights.keys() & twins[0].weights.keys()
    assert any(not torch.equal(other.weights[name], twins[0].weights[name]) for name in shared)
