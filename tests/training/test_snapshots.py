"""The ring of snapshots: bounded in memory, cheap to fill, exact to restore."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from esper.training.loss_monitor import LossMonitorState
from esper.training.snapshots import SnapshotRing, SnapshotScope

KNOWN = LossMonitorState()


class Small(nn.Module):
    """A linear layer, batch normalisation, and a large frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.frozen = nn.Parameter(torch.ones(1000), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layer(x))
        return result


def train(model: nn.Module, optimizer: Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(
            model(torch.randn(8, 4, generator=generator)), torch.randn(8, 6, generator=generator)
        )
        loss.backward()
        optimizer.step()


def small(kind: Any = Adam, **arguments: Any) -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, kind(trained, lr=0.01, **arguments)


def bits_of(model: nn.Module, optimizer: Optimizer) -> Any:
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(Adam, {}), (Adam, {"amsgrad": True}), (SGD, {"momentum": 0.9}), (SGD, {})],
)
def test_a_restore_is_exact_and_training_repeats_bit_for_bit(
    kind: Any, arguments: dict[str, Any]
) -> None:
    model, optimizer = small(kind, **arguments)
    train(model, optimizer, 5)
    ring = SnapshotRing(model, 2, 1 << 20)
    snapshot = ring.take(5, KNOWN, optimizer, ())
    assert snapshot is not None
    before = bits_of(model, optimizer)
    train(model, optimizer, 7, seed=1)
    after = bits_of(model, optimizer)
    with torch.no_grad():
        model.layer.weight.fill_(torch.nan)
    train(model, optimizer, 2)
    ring.restore(snapshot, optimizer)
    assert_same(bits_of(model, optimizer), before)
    assert all(
        float(parameter.grad.abs().sum()) == 0
        for parameter in model.layer.parameters()
        if parameter.grad is not None
    )
    train(model, optimizer, 7, seed=1)
    assert_same(bits_of(model, optimizer), after)


def test_a_restore_removes_optimizer_state_newer_than_the_snapshot() -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    snapshot = ring.take(0, KNOWN, optimizer, ())
    assert snapshot is not None
    train(model, optimizer, 3)
    ring.restore(snapshot, optimizer)
    assert not optimizer.state


def test_a_restore_keeps_the_hyperparameters_that_schedulers_own() -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    snapshot = ring.take(0, KNOWN, optimizer, ())
    assert snapshot is not None
    optimizer.param_groups[0]["lr"] = 0.5
    ring.restore(snapshot, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_newest_good_snapshot_is_replaced_last() -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    for step in (10, 20, 30, 40):
        taken = ring.take(step, KNOWN, optimizer, ())
        assert taken is not None
        taken.good = step == 20
    good = ring.last_good()
    assert good is not None
    assert good.step == 20
    assert len(ring) == 2
    assert ring.at_step(40) is not None
    assert ring.at_step(30) is None


@pytest.mark.parametrize(
    ("healthy_steps", "step", "good"),
    [(32, 52, True), (31, 52, False), (400, 51, False), (400, 52, True)],
)
def test_a_snapshot_is_good_after_enough_healthy_steps(
    healthy_steps: int, step: int, good: bool
) -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    ring.take(20, KNOWN, optimizer, ())
    ring.confirm(step, healthy_steps, 32)
    assert (ring.last_good() is not None) is good


def test_the_memory_of_a_dropped_snapshot_is_reused() -> None:
    model, optimizer = small()
    train(model, optimizer, 1)
    ring = SnapshotRing(model, 2, 1 << 20)
    addresses = []
    for step in range(6):
        taken = ring.take(step, KNOWN, optimizer, ())
        assert taken is not None
        addresses.append({copied.data_ptr() for copied in taken.tensors.values()})
    assert addresses[0] == addresses[2] == addresses[4]
    assert addresses[1] == addresses[3] == addresses[5]


def test_snapshots_stay_within_their_bytes_and_a_smaller_scope_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, optimizer = small()
    train(model, optimizer, 1)
    with caplog.at_level(logging.WARNING, logger="esper"):
        for most_bytes, scope in (
            (1 << 20, SnapshotScope.EVERYTHING),
            (1500, SnapshotScope.TRAINED),
            (1000, SnapshotScope.NOTHING),
        ):
            ring = SnapshotRing(model, 5, most_bytes)
            for step in range(7):
                ring.take(step, KNOWN, optimizer, ())
            assert ring.scope is scope
            assert ring.nbytes <= most_bytes
            assert len(ring) == {SnapshotScope.NOTHING: 0, SnapshotScope.TRAINED: 2}.get(scope, 5)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "snapshots hold trained parameters and buffers" in messages[0]
    assert "snapshots hold nothing" in messages[1]
