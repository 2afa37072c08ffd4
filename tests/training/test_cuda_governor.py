"""The governor on a GPU does not synchronise between two reports; skipped without a GPU."""

import copy

import pytest
import torch
from torch import nn

from esper.training.governor import LossBuffer
from esper.training.loss_monitor import LossMonitorState
from esper.training.snapshots import SnapshotRing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def test_on_a_gpu_losses_are_read_at_reports_in_order_and_no_step_synchronises() -> None:
    buffer = LossBuffer(4)
    losses = torch.arange(8.0, device="cuda")
    assert buffer.read(losses[0], now=False) == []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [buffer.read(losses[step], now=False) for step in (1, 2)] == [[], []]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert buffer.read(losses[3], now=True) == [0.0, 1.0, 2.0, 3.0]
    assert buffer.read(losses[4], now=False) == []


def test_on_a_gpu_a_snapshot_does_not_synchronise_and_is_exact() -> None:
    model = nn.Linear(64, 64).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        model(torch.ones(4, 64, device="cuda")).sum().backward()
        optimizer.step()
    ring = SnapshotRing(model, 2, 1 << 20)
    ring.take(0, LossMonitorState(), optimizer, ())
    ring.take(1, LossMonitorState(), optimizer, ())
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    torch.cuda.set_sync_debug_mode("error")
    try:
        snapshot = ring.take(2, LossMonitorState(), optimizer, ())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert snapshot is not None
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    optimizer.step()
    ring.restore(snapshot, optimizer)
    after = model.state_dict(), optimizer.state_dict()["state"]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
