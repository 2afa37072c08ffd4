"""Snapshots: the layout of outputs and targets, the losses, and bytes that are refused."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from esper.audition import (
    AuditionLoss,
    SiteSnapshot,
    SnapshotRefused,
    by_position,
    losses,
    pack_snapshot,
    unpack_snapshot,
)


def snapshot(count: int = 40, **changed: Tensor) -> SiteSnapshot:
    torch.manual_seed(0)
    parts = {
        "x": torch.randn(count, 3),
        "h": torch.randn(count, 4),
        "outputs": torch.randn(count, 1, 5),
        "targets": torch.randint(5, (count, 1)),
    }
    return SiteSnapshot(**(parts | changed), loss=AuditionLoss.CROSS_ENTROPY)


def test_a_snapshot_survives_its_bytes() -> None:
    before = snapshot()
    after = unpack_snapshot(pack_snapshot(before))
    for name in ("x", "h", "outputs", "targets"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert after.loss is AuditionLoss.CROSS_ENTROPY


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((6, 5), (6,)), ((6, 7, 5), (6, 7)), ((6, 5, 7), (6, 7)), ((6, 5, 2, 3), (6, 2, 3))],
    ids=["classes", "positions", "classes first", "images"],
)
def test_the_loss_of_labels_is_that_of_torch(
    outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    raw, labels = torch.randn(outputs), torch.randint(5, targets)
    classes_first = raw if raw.shape[1] == 5 else raw.movedim(-1, 1)
    expected = F.cross_entropy(classes_first, labels)
    aligned, wanted, loss = by_position(raw, labels)
    assert loss is AuditionLoss.CROSS_ENTROPY
    torch.testing.assert_close(losses(loss, aligned, wanted).mean(), expected)


def test_the_loss_of_values_is_that_of_torch() -> None:
    torch.manual_seed(0)
    raw, values = torch.randn(6, 3), torch.randn(6, 3)
    aligned, wanted, loss = by_position(raw, values)
    torch.testing.assert_close(losses(loss, aligned, wanted).mean(), F.mse_loss(raw, values))


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.randn(6, 5), torch.randn(6)),
        (torch.randn(6, 5), torch.zeros(7, dtype=torch.long)),
        (torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.long)),
    ],
    ids=["values of another shape", "another number", "no floats"],
)
def test_outputs_and_targets_without_a_known_loss_are_refused(
    outputs: Tensor, targets: Tensor
) -> None:
    with pytest.raises(SnapshotRefused, match="integer labels"):
        by_position(outputs, targets)


@pytest.mark.parametrize("count", [1, 31])
def test_too_few_samples_are_refused(count: int) -> None:
    with pytest.raises(SnapshotRefused, match="too few"):
        pack_snapshot(snapshot(count))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    h = torch.full((40, 4), value)
    with pytest.raises(SnapshotRefused, match="h holds values"):
        pack_snapshot(snapshot(h=h))


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 100, save({"x": torch.zeros(3)}), pack_snapshot(snapshot())[:-3]],
    ids=["empty", "noise", "another file", "cut"],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SnapshotRefused):
        unpack_snapshot(data)


def test_parts_of_unequal_length_are_refused() -> None:
    with pytest.raises(SnapshotRefused, match="different numbers"):
        pack_snapshot(snapshot(h=torch.zeros(39, 4)))
