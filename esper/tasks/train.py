"""Training of a shipped task: an ordinary PyTorch loop, with or without growth."""

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
"""Inputs (N, ..) and labels: (N,), or (N, T) with one label per position."""

LossFn = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs and labels; returns the mean loss, a scalar."""

AUDITION_SHARE: Final = 0.3

EVALUATION_BATCH: Final = 1024
"""Samples per batch in `evaluate`."""


@dataclass(frozen=True, slots=True)
class DatasetSplits:
    """The samples of a task: for training, for the probe that measures seeds, and for the test.

    `audition` are samples to try kernels on; without them, the last 30 % of the training samples.
    """

    train: Samples
    probe: Samples
    test: Samples
    audition: Samples | None = None

    @property
    def audition_samples(self) -> Samples:
        """The samples to try kernels on."""
        if self.audition is not None:
            return self.audition
        inputs, labels = self.train
        start = round((1 - AUDITION_SHARE) * len(inputs))
        return inputs[start:], labels[start:]

    def to(self, device: str) -> "DatasetSplits":
        """Return the same samples on a device."""
        parts = (self.train, self.probe, self.test, *([self.audition] if self.audition else []))
        return DatasetSplits(*((inputs.to(device), labels.to(device)) for inputs, labels in parts))


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task: its host, the sites where the host grows, and its samples.

    `blueprints` are those that may be planted; empty: all. `auditions` says whether kernels are
    tried beside the training unless another selection is asked for.
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
    auditions: bool = False

    def allowed(self, selection: Selection) -> Selection:
        """Return the selection with every site pinned to the blueprints of this task."""
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
    """A trained host, its mean loss over the test labels, and the share of correct labels."""

    model: nn.Module
    test_loss: float
    test_accuracy: float
    params: int
    steps: int


class Steppable(Protocol):
    """The part of `Growth` that the training loop calls."""

    def step(self, loss: Tensor) -> None:
        """Take the loss of a training step, after the optimizer's step."""


class NoGrowth:
    """A stand-in for `Growth` that does nothing: the baseline."""

    def step(self, loss: Tensor) -> None:
        """Do nothing."""


Attach = Callable[[nn.Module, Optimizer, DatasetSplits], AbstractContextManager[Steppable]]
OnEpoch = Callable[[int, float], None]


def no_growth(
    model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
) -> AbstractContextManager[Steppable]:
    """Attach no growth: train the baseline."""
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
    """Train the host of a task from `seed` for `epochs` and test it; `attach` attaches growth.

    Two calls that differ only in `attach` start from the same weights and see the same batches.
    With a `checkpoint` the training resumes from it and writes it after each epoch. It ends early
    after a step at which `should_stop` returns true.
    """
    splits = task.load().to(device)
    torch.manual_seed(seed)
    model = task.host().to(device)
    optimizer = Adam(model.parameters(), lr=task.learning_rate)
    shuffle = torch.Generator().manual_seed(seed)
    inputs, labels = splits.train
    steps, first_epoch = (checkpoint.steps, checkpoint.epoch) if checkpoint else (0, 0)
    with attach(model, optimizer, splits) as growth:
        if checkpoint is not None:
            checkpoint.restore(model, optimizer, shuffle)
        for epoch in range(first_epoch, epochs):
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
    """Return the mean loss per label, and the share of labels with the largest logit.

    Leaves the model in evaluation mode.
    """
    loss, correct = 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, labels in zip(
            *(torch.split(part, EVALUATION_BATCH) for part in samples), strict=True
        ):
            outputs = model(inputs)
            loss += float(loss_fn(outputs, labels)) * labels.numel()
            correct += int((outputs.argmax(dim=-1) == labels).sum())
    count = samples[1].numel()
    return loss / count, correct / count
