"""The checkpoint file of a shipped task's training."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Generator, nn
from torch.optim import Optimizer

from esper.errors import EsperError

FORMAT: Final = "esper-training/1"
KEYS: Final = {"settings", "epochs", "model", "optimizer", "shuffle", "growth", "epoch", "steps"}


class CheckpointUnusable(EsperError, ValueError):
    """A checkpoint file that cannot be read, written or resumed; the message says why."""


class TrainingCheckpoint:
    """The file that a training writes atomically after each epoch.

    `settings` identify the training: a file with other settings is refused. A training may resume
    for more `epochs` than planned, not for fewer: some recorded steps would never be taken again,
    and the run would stay open.

    `state` is the content that an earlier process wrote, None without one. Set `growth_state` to a
    function that returns the state of growth.
    """

    growth_state: Callable[[], dict[str, Any]] = dict

    def __init__(self, path: Path, settings: dict[str, Any], epochs: int) -> None:
        """Read the file, if it exists.

        Raises:
            CheckpointUnusable: the file is no checkpoint, has other settings or more epochs, or its
                folder does not exist.
        """
        self.path = path
        self._settings = {"format": FORMAT, **settings}
        self._epochs = epochs
        self.state: dict[str, Any] | None = None
        if path.exists():
            self.state = self._read()
        elif not path.parent.is_dir():
            raise CheckpointUnusable(f"there is no folder {path.parent} for {path.name}; create it")

    @property
    def epoch(self) -> int:
        """The number of epochs trained by earlier processes."""
        return int(self.state["epoch"]) if self.state else 0

    @property
    def steps(self) -> int:
        """The number of steps trained by earlier processes."""
        return int(self.state["steps"]) if self.state else 0

    def restore(self, model: nn.Module, optimizer: Optimizer, shuffle: Generator) -> None:
        """Load the file's state, if it has one."""
        if self.state is not None:
            model.load_state_dict(self.state["model"])
            optimizer.load_state_dict(self.state["optimizer"])
            shuffle.set_state(self.state["shuffle"].cpu())

    def write(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        shuffle: Generator,
        *,
        epoch: int,
        steps: int,
    ) -> None:
        """Replace the file by the present state of the training.

        Raises:
            CheckpointUnusable: the file cannot be written; its old content is unchanged.
        """
        part = self.path.with_name(f"{self.path.name}.part")
        state = {
            "settings": self._settings,
            "epochs": self._epochs,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "shuffle": shuffle.get_state(),
            "growth": self.growth_state(),
            "epoch": epoch,
            "steps": steps,
        }
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                # Before the rename, so that a loss of power leaves the old file or the new one.
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            raise CheckpointUnusable(
                f"{self.path} cannot be written: {error.strerror}; make it writable and train again"
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the file: the training has ended."""
        self.path.unlink(missing_ok=True)

    def refusal(self, error: Exception) -> CheckpointUnusable:
        """Return an error that names the file, for an `error` in resuming the run."""
        return CheckpointUnusable(
            f"{self.path} cannot be resumed: {error}; or remove the file to start again"
        )

    def _read(self) -> dict[str, Any]:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch raises many exception types for a file of another format.
            raise self._unreadable() from error
        if not isinstance(state, dict) or set(state) != KEYS:
            raise self._unreadable()
        settings = state["settings"]
        other = [name for name, value in self._settings.items() if settings.get(name) != value]
        if other:
            raise CheckpointUnusable(
                f"{self.path} is of a training with another {' and '.join(other)}; "
                "name another file, or train with the settings of this one"
            )
        if state["epochs"] > self._epochs:
            raise CheckpointUnusable(
                f"{self.path} is of a training for {state['epochs']} epochs; give at least as many"
            )
        return state

    def _unreadable(self) -> CheckpointUnusable:
        return CheckpointUnusable(
            f"{self.path} is no checkpoint of a training; name another file, or remove it"
        )
