"""The file from which a training of a shipped task goes on."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Generator, nn
from torch.optim import Optimizer

FORMAT: Final = "esper-training/1"


class CheckpointUnusable(ValueError):
    """A file from which this training cannot go on; the message says why."""


class TrainingFile:
    """What a training keeps after each epoch, all or nothing; `told` is what makes it this one.

    `state` is what was kept by an earlier process, None where this one begins. Whoever attaches
    growth sets `growth_state`, which returns the state of that.
    """

    growth_state: Callable[[], dict[str, Any]] = dict

    def __init__(self, path: Path, told: dict[str, Any]) -> None:
        """Read the file, if there is one.

        Raises:
            CheckpointUnusable: it is something else, or of a training that was told otherwise.
        """
        self.path = path
        self._told = {"format": FORMAT, **told}
        self.state: dict[str, Any] | None = None
        if path.exists():
            self.state = self._read()

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
        """Put the training as it stands in place of what was kept before."""
        part = self.path.with_name(f"{self.path.name}.part")
        state = {
            "told": self._told,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "shuffle": shuffle.get_state(),
            "growth": self.growth_state(),
            "epoch": epoch,
            "steps": steps,
        }
        torch.save(state, part)
        part.replace(self.path)

    def remove(self) -> None:
        """Forget the training: it is over."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
            told = state["told"]
        except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise CheckpointUnusable(
                f"{self.path} is no checkpoint of a training; name another file, or remove it"
            ) from error
        odd = [name for name, value in self._told.items() if told.get(name) != value]
        if odd:
            raise CheckpointUnusable(
                f"{self.path} is of a training with another {' and '.join(odd)}; "
                "name another file, or train as it was told"
            )
        return state
