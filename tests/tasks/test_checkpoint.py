"""`TrainingCheckpoint`: written atomically, and refused for another training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from esper.tasks import CheckpointUnusable, TrainingCheckpoint
from esper.tasks.checkpoint import FORMAT

SETTINGS = {"task": "digits", "seed": 0, "device": "cpu", "lockstep": False}
EPOCHS = 10


def written(path: Path, settings: dict[str, Any] = SETTINGS) -> TrainingCheckpoint:
    """Return a checkpoint that was written after epoch 3."""
    model = nn.Linear(2, 2)
    file = TrainingCheckpoint(path, settings, EPOCHS)
    file.growth_state = lambda: {"growth": "{}"}
    optimizer = SGD(model.parameters(), lr=0.1)
    file.write(model, optimizer, torch.Generator().manual_seed(5), epoch=3, steps=12)
    return file


def test_the_next_process_reads_what_was_written(tmp_path: Path) -> None:
    written(tmp_path / "training.pt")
    file = TrainingCheckpoint(tmp_path / "training.pt", SETTINGS, EPOCHS)
    assert (file.epoch, file.steps) == (3, 12)
    assert file.state is not None
    assert file.state["growth"] == {"growth": "{}"}
    model, shuffle = nn.Linear(2, 2), torch.Generator()
    file.restore(model, SGD(model.parameters(), lr=0.1), shuffle)
    assert torch.equal(model.weight, file.state["model"]["weight"])
    assert torch.equal(shuffle.get_state(), torch.Generator().manual_seed(5).get_state())


def test_without_a_file_a_training_starts_at_epoch_0(tmp_path: Path) -> None:
    file = TrainingCheckpoint(tmp_path / "training.pt", SETTINGS, EPOCHS)
    assert (file.state, file.epoch, file.steps) == (None, 0, 0)


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path) -> None:
    file = written(tmp_path / "training.pt")
    before = file.path.read_bytes()

    def fail() -> dict[str, Any]:
        raise ZeroDivisionError

    file.growth_state = fail
    model = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError):
        file.write(model, SGD(model.parameters(), lr=0.1), torch.Generator(), epoch=4, steps=16)
    assert file.path.read_bytes() == before


def test_remove_deletes_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "training.pt")
    file.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    # The last two end torch's unpickler with an IndexError and a UnicodeDecodeError.
    [b"", b"not a checkpoint", b"PK\x03\x04", b".", b"X\x01\x00\x00\x00\xff."],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointUnusable, match="no checkpoint of a training; name another file"):
        TrainingCheckpoint(path, SETTINGS, EPOCHS)


@pytest.mark.parametrize(
    "state",
    [{"model": {}}, {"settings": {"format": FORMAT, **SETTINGS}}, {}, [1], torch.zeros(3)],
    ids=["a model's", "half of one", "nothing", "a list", "a tensor"],
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, state: Any) -> None:
    path = tmp_path / "training.pt"
    torch.save(state, path)
    with pytest.raises(CheckpointUnusable, match="no checkpoint of a training"):
        TrainingCheckpoint(path, SETTINGS, EPOCHS)


@pytest.mark.parametrize("length", [10, 1000, -30, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "training.pt").path
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointUnusable, match="no checkpoint of a training"):
        TrainingCheckpoint(path, SETTINGS, EPOCHS)


def test_a_training_resumes_for_more_epochs_and_not_for_fewer(tmp_path: Path) -> None:
    path = written(tmp_path / "training.pt").path
    assert TrainingCheckpoint(path, SETTINGS, EPOCHS + 1).epoch == 3
    with pytest.raises(CheckpointUnusable, match="for 10 epochs; give at least as many"):
        TrainingCheckpoint(path, SETTINGS, EPOCHS - 1)


def test_a_file_in_a_missing_folder_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnusable, match=r"there is no folder .*nowhere for training.pt"):
        TrainingCheckpoint(tmp_path / "nowhere" / "training.pt", SETTINGS, EPOCHS)


def test_a_write_that_fails_names_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = TrainingCheckpoint(folder / "training.pt", SETTINGS, EPOCHS)
    folder.rmdir()
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointUnusable, match=r"training.pt cannot be written: No such file"):
        file.write(model, SGD(model.parameters(), lr=0.1), torch.Generator(), epoch=1, steps=4)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_settings_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "training.pt")
    with pytest.raises(CheckpointUnusable, match="with another seed and lockstep; name another"):
        TrainingCheckpoint(
            tmp_path / "training.pt", {**SETTINGS, "seed": 1, "lockstep": True}, EPOCHS
        )
