"""The file of a training: written whole or not at all, and only of that training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from esper.tasks import CheckpointUnusable, TrainingCheckpoint
from esper.tasks.checkpoint import FORMAT

TOLD = {"task": "digits", "seed": 0, "device": "cpu", "lockstep": False}
EPOCHS = 10


def written(path: Path, told: dict[str, Any] = TOLD) -> TrainingCheckpoint:
    """A file in which something was kept."""
    model = nn.Linear(2, 2)
    file = TrainingCheckpoint(path, told, EPOCHS)
    file.growth_state = lambda: {"growth": "{}"}
    optimizer = SGD(model.parameters(), lr=0.1)
    file.write(model, optimizer, torch.Generator().manual_seed(5), epoch=3, steps=12)
    return file


def test_what_was_kept_is_there_for_the_next_process(tmp_path: Path) -> None:
    written(tmp_path / "training.pt")
    file = TrainingCheckpoint(tmp_path / "training.pt", TOLD, EPOCHS)
    assert (file.epoch, file.steps) == (3, 12)
    assert file.state is not None
    assert file.state["growth"] == {"growth": "{}"}
    model, shuffle = nn.Linear(2, 2), torch.Generator()
    file.restore(model, SGD(model.parameters(), lr=0.1), shuffle)
    assert torch.equal(model.weight, file.state["model"]["weight"])
    assert torch.equal(shuffle.get_state(), torch.Generator().manual_seed(5).get_state())


def test_without_a_file_a_training_begins(tmp_path: Path) -> None:
    file = TrainingCheckpoint(tmp_path / "training.pt", TOLD, EPOCHS)
    assert (file.state, file.epoch, file.steps) == (None, 0, 0)


def test_a_write_that_is_cut_off_leaves_what_was_kept_before(tmp_path: Path) -> None:
    file = written(tmp_path / "training.pt")
    before = file.path.read_bytes()

    def fail() -> dict[str, Any]:
        raise ZeroDivisionError

    file.growth_state = fail
    model = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError):
        file.write(model, SGD(model.parameters(), lr=0.1), torch.Generator(), epoch=4, steps=16)
    assert file.path.read_bytes() == before


def test_a_training_that_is_over_leaves_no_file(tmp_path: Path) -> None:
    file = written(tmp_path / "training.pt")
    file.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    # The last two end torch's unpickler with an IndexError and a UnicodeDecodeError.
    [b"", b"not a checkpoint", b"PK\x03\x04", b".", b"X\x01\x00\x00\x00\xff."],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointUnusable, match="no checkpoint of a training; name another file"):
        TrainingCheckpoint(path, TOLD, EPOCHS)


@pytest.mark.parametrize(
    "state",
    [{"model": {}}, {"told": {"format": FORMAT, **TOLD}}, {}, [1], torch.zeros(3)],
    ids=["a model's", "half of one", "nothing", "a list", "a tensor"],
)
def test_a_checkpoint_of_somebody_elses_is_refused(tmp_path: Path, state: Any) -> None:
    path = tmp_path / "training.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointUnusable, match="no checkpoint of a training"):
        TrainingCheckpoint(path, TOLD, EPOCHS)


@pytest.mark.parametrize("length", [10, 1000, -30, -1])
def test_a_file_that_lacks_its_end_is_refused(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "training.pt").path
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointUnusable, match="no checkpoint of a training"):
        TrainingCheckpoint(path, TOLD, EPOCHS)


def test_a_training_goes_on_for_more_epochs_and_not_for_fewer(tmp_path: Path) -> None:
    path = written(tmp_path / "training.pt").path
    assert TrainingCheckpoint(path, TOLD, EPOCHS + 1).epoch == 3
    with pytest.raises(CheckpointUnusable, match="for 10 epochs; ask for as many, or for more"):
        TrainingCheckpoint(path, TOLD, EPOCHS - 1)


def test_a_file_without_a_folder_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnusable, match=r"there is no folder .*nowhere for training.pt"):
        TrainingCheckpoint(tmp_path / "nowhere" / "training.pt", TOLD, EPOCHS)


def test_a_write_that_fails_names_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = TrainingCheckpoint(folder / "training.pt", TOLD, EPOCHS)
    folder.rmdir()
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointUnusable, match=r"training.pt cannot be written: No such file"):
        file.write(model, SGD(model.parameters(), lr=0.1), torch.Generator(), epoch=1, steps=4)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_training_that_was_told_otherwise_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "training.pt")
    with pytest.raises(CheckpointUnusable, match="with another seed and lockstep; name another"):
        TrainingCheckpoint(tmp_path / "training.pt", {**TOLD, "seed": 1, "lockstep": True}, EPOCHS)
