"""The ring of snapshots: bounded, cheap to fill, and exact to go back to."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from esper.training.loss_monitor import LossMonitorState
from esper.training.snapshots import Reach, SnapshotRing

KNOWN = LossMonitorState()


class Small(nn.Module):
    """A layer with running statistics behind it."""

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
    trained = [each for each in model.parameters() if each.requires_grad]
    return model, kind(trained, lr=0.01, **arguments)


def bits_of(model: nn.Module, optimizer: Optimizer) -> Any:
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(Adam, {}), (Adam, {"amsgrad": True}), (SGD, {"momentum": 0.9}), (SGD, {})],
)
def test_going_back_is_exact_and_training_goes_on_as_it_did_then(
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
    ring.put_back(snapshot, optimizer)
    assert_same(bits_of(model, optimizer), before)
    assert all(
        float(each.grad.abs().sum()) == 0
        for each in model.layer.parameters()
        if each.grad is not None
    )
    train(model, optimizer, 7, seed=1)
    assert_same(bits_of(model, optimizer), after)


def test_state_that_came_after_the_snapshot_is_gone_again() -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    snapshot = ring.take(0, KNOWN, optimizer, ())
    assert snapshot is not None
    train(model, optimizer, 3)
    ring.put_back(snapshot, optimizer)
    assert not optimizer.state


def test_schedules_keep_their_hyperparameters() -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    snapshot = ring.take(0, KNOWN, optimizer, ())
    assert snapshot is not None
    optimizer.param_groups[0]["lr"] = 0.5
    ring.put_back(snapshot, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_newest_good_one_is_kept_while_others_come_and_go() -> None:
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
    assert ring.of_step(40) is not None
    assert ring.of_step(30) is None


@pytest.mark.parametrize(
    ("healthy_steps", "step", "good"),
    [(32, 52, True), (31, 52, False), (400, 51, False), (400, 52, True)],
)
def test_a_snapshot_is_good_after_enough_sound_losses_since_it(
    healthy_steps: int, step: int, good: bool
) -> None:
    model, optimizer = small()
    ring = SnapshotRing(model, 2, 1 << 20)
    ring.take(20, KNOWN, optimizer, ())
    ring.confirm(step, healthy_steps, 32)
    assert (ring.last_good() is not None) is good


def test_memory_is_used_again() -> None:
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


def test_the_bound_on_bytes_holds_and_what_is_left_out_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, optimizer = small()
    train(model, optimizer, 1)
    with caplog.at_level(logging.WARNING, logger="esper"):
        for most_bytes, reach in (
            (1 << 20, Reach.EVERYTHING),
            (1500, Reach.TRAINED),
            (1000, Reach.NOTHING),
        ):
            ring = SnapshotRing(model, 5, most_bytes)
            for step in range(7):
                ring.take(step, KNOWN, optimizer, ())
            assert ring.reach is reach
            assert ring.nbytes <= most_bytes
            assert len(ring) == {Reach.NOTHING: 0, Reach.TRAINED: 2}.get(reach, 5)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "snapshots hold what is trained, and buffers" in said[0]
    assert "snapshots hold nothing" in said[1]
