"""Training a shipped task: the loop as a user writes it, with growth attached or not."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from esper.tasks.checkpoint import TrainingCheckpoint
from esper.topics.models import Selection

BATCH: Final = 32
LEARNING_RATE: Final = 1e-3

Samples = tuple[Tensor, Tensor]
"""Inputs (N, ..) and labels (N,), or (N, T) where every position has one."""

LossFn = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of outputs and labels, a scalar."""

EVALUATION_BATCH: Final = 1024
"""Samples that are tested at a time."""


@dataclass(frozen=True, slots=True)
class DatasetSplits:
    """The samples of a task: what trains, what measures growth, what judges."""

    train: Samples
    probe: Samples
    test: Samples

    def to(self, device: str) -> "DatasetSplits":
        """Return the same samples on a device."""
        parts = (self.train, self.probe, self.test)
        return DatasetSplits(*((inputs.to(device), labels.to(device)) for inputs, labels in parts))


@dataclass(frozen=True, slots=True)
class Task:
    """A classification that is shipped: its host, the sites where it grows, and its samples.

    `blueprints` are the only ones that may be planted, where not all may.
    """

    name: str
    summary: str
    host: Callable[[], nn.Module]
    sites: tuple[str, ...]
    load: Callable[[], DatasetSplits]
    epochs: int
    learning_rate: float = LEARNING_RATE
    batch: int = BATCH
    loss: LossFn = F.cross_entropy
    blueprints: tuple[str, ...] = ()

    def allowed(self, selection: Selection) -> Selection:
        """Return the selection, with every site pinned to what may be planted in this task."""
        if not self.blueprints:
            return selection
        limits = selection.limits
        pinned = {
            site: tuple(
                name for name in limits.pinned.get(site, self.blueprints) if name in self.blueprints
            )
            for site in self.sites
        }
        return selection.model_copy(update={"limits": limits.model_copy(update={"pinned": pinned})})


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A trained host, its mean loss over the test labels, and the share that it gets right."""

    model: nn.Module
    test_loss: float
    test_accuracy: float
    params: int
    steps: int


class Steppable(Protocol):
    """What the training loop needs of growth."""

    def step(self, loss: Tensor) -> None:
        """Called once after each optimizer step."""


class NoGrowth:
    """Growth that does nothing, for the twin that shows what growing changed."""

    def step(self, loss: Tensor) -> None:
        """Leave the model as it is."""


Attach = Callable[[nn.Module, Optimizer, DatasetSplits], AbstractContextManager[Steppable]]
OnEpoch = Callable[[int, float], None]


def no_growth(
    model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
) -> AbstractContextManager[Steppable]:
    """Attach nothing."""
    return nullcontext(NoGrowth())


def train_task(
    task: Task,
    seed: int,
    epochs: int,
    attach: Attach = no_growth,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
    checkpoint: TrainingCheckpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TaskResult:
    """Train the host of a task from `seed` for `epochs` and test it; `attach` lets it grow or not.

    Two calls that differ only in `attach` start from the same weights and see the same batches.
    With a file the training goes on from it and keeps itself there. It ends before its time with
    the step after which there is `should_stop`.
    """
    splits = task.load().to(device)
    torch.manual_seed(seed)
    model = task.host().to(device)
    optimizer = Adam(model.parameters(), lr=task.learning_rate)
    shuffle = torch.Generator().manual_seed(seed)
    inputs, labels = splits.train
    steps, begun = (checkpoint.steps, checkpoint.epoch) if checkpoint else (0, 0)
    with attach(model, optimizer, splits) as growth:
        if checkpoint is not None:
            checkpoint.restore(model, optimizer, shuffle)
        for epoch in range(begun, epochs):
            model.train()
            order = torch.randperm(len(inputs), generator=shuffle).to(device)
            for batch in torch.split(order, task.batch):
                loss = task.loss(model(inputs[batch]), labels[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                growth.step(loss)
                steps += 1
                if should_stop():
                    break
            if checkpoint is not None:
                checkpoint.write(model, optimizer, shuffle, epoch=epoch + 1, steps=steps)
            if on_epoch is not None:
                on_epoch(epoch + 1, float(loss.detach()))
            if should_stop():
                break
    params = sum(parameter.numel() for parameter in model.parameters())
    return TaskResult(model, *evaluate(model, task.loss, splits.test), params, steps)


def evaluate(model: nn.Module, loss_fn: LossFn, samples: Samples) -> tuple[float, float]:
    """Return the mean loss, and the share of labels that have the largest logit.

    The model is in evaluation mode afterwards.
    """
    loss, right = 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, labels in zip(
            *(torch.split(part, EVALUATION_BATCH) for part in samples), strict=True
        ):
            outputs = model(inputs)
            loss += float(loss_fn(outputs, labels)) * labels.numel()
            right += int((outputs.argmax(dim=-1) == labels).sum())
    count = samples[1].numel()
    return loss / count, right / count
