"""The file from which a training of a shipped task goes on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Generator, nn
from torch.optim import Optimizer

FORMAT: Final = "esper-training/1"
PARTS: Final = {"told", "epochs", "model", "optimizer", "shuffle", "growth", "epoch", "steps"}


class CheckpointUnusable(ValueError):
    """A file from which this training cannot go on, or not be kept in; the message says why."""


class TrainingCheckpoint:
    """What a training keeps after each epoch, all or nothing; `told` is what makes it this one.

    It may go on for more `epochs` than were planned, not for fewer: that would leave steps on
    record that are never taken again, and a run that nobody closes.

    `state` is what was kept by an earlier process, None where this one begins. Whoever attaches
    growth sets `growth_state`, which returns the state of that.
    """

    growth_state: Callable[[], dict[str, Any]] = dict

    def __init__(self, path: Path, told: dict[str, Any], epochs: int) -> None:
        """Read the file, if there is one.

        Raises:
            CheckpointUnusable: it is something else, or of a training that was told otherwise, or
                it would have no folder.
        """
        self.path = path
        self._told = {"format": FORMAT, **told}
        self._epochs = epochs
        self.state: dict[str, Any] | None = None
        if path.exists():
            self.state = self._read()
        elif not path.parent.is_dir():
            raise CheckpointUnusable(f"there is no folder {path.parent} for {path.name}; make it")

    @property
    def epoch(self) -> int:
        """How many epochs were trained before this process."""
        return int(self.state["epoch"]) if self.state else 0

    @property
    def steps(self) -> int:
        """How many steps they took."""
        return int(self.state["steps"]) if self.state else 0

    def restore(self, model: nn.Module, optimizer: Optimizer, shuffle: Generator) -> None:
        """Load what was kept, if anything was."""
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
        """Put the training as it stands in place of what was kept before.

        Raises:
            CheckpointUnusable: it cannot be written; what was kept before still is.
        """
        part = self.path.with_name(f"{self.path.name}.part")
        state = {
            "told": self._told,
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
                # Before it has its name: a machine that loses power must not leave half of it.
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as error:
            raise CheckpointUnusable(
                f"{self.path} cannot be written: {error.strerror}; see to it, and train again"
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the training: it is over."""
        self.path.unlink(missing_ok=True)

    def refusal(self, error: Exception) -> CheckpointUnusable:
        """Return why the run that was kept does not go on, as an error that names the file."""
        return CheckpointUnusable(
            f"{self.path} does not go on: {error}; or remove the file, to begin anew"
        )

    def _read(self) -> dict[str, Any]:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            # Torch has half a dozen kinds for a file that is not its own.
            raise self._unreadable() from error
        if not isinstance(state, dict) or set(state) != PARTS:
            raise self._unreadable()
        told = state["told"]
        odd = [name for name, value in self._told.items() if told.get(name) != value]
        if odd:
            raise CheckpointUnusable(
                f"{self.path} is of a training with another {' and '.join(odd)}; "
                "name another file, or train as it was told"
            )
        if state["epochs"] > self._epochs:
            raise CheckpointUnusable(
                f"{self.path} is of a training for {state['epochs']} epochs; "
                "ask for as many, or for more"
            )
        return state

    def _unreadable(self) -> CheckpointUnusable:
        return CheckpointUnusable(
            f"{self.path} is no checkpoint of a training; name another file, or remove it"
        )
