"""One training of an experiment: what it came to, and where its time went."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.threads import one_thread
from esper.tasks.train import Samples, Splits, Steppable, Task, train_task

Grows = Callable[[nn.Module, Optimizer, Splits], AbstractContextManager[Steppable]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that is over; seconds are of its wall time."""

    test_accuracy: float
    test_loss: float
    probe_loss: float
    params: int
    steps: int
    train_s: float
    probe_s: float
    wait_s: float
    cpu_s: float


class Clock:
    """Where the time of one training goes: to training itself, to probes, and to all of growth.

    A probe is a forward pass of the model in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.growth_s = self.probe_s = 0.0
        self._began = self._probe_began = perf_counter()
        self._cpu_began = process_time()
        self._hooks = (
            model.register_forward_pre_hook(self._before),
            model.register_forward_hook(self._after),
        )

    @contextmanager
    def of_growth(self) -> Iterator[None]:
        """Count the block as growth's, with the probes in it."""
        start = perf_counter()
        try:
            yield
        finally:
            self.growth_s += perf_counter() - start

    def stop(self) -> tuple[float, float]:
        """Stop watching; return the seconds since the clock was made, and the processor's of them.

        The latter are those of this process, with all its threads.
        """
        for hook in self._hooks:
            hook.remove()
        return perf_counter() - self._began, process_time() - self._cpu_began

    def _before(self, model: nn.Module, _: Any) -> None:
        if not model.training:
            self._probe_began = perf_counter()

    def _after(self, model: nn.Module, *_: Any) -> None:
        if not model.training:
            self.probe_s += perf_counter() - self._probe_began


@dataclass(frozen=True, slots=True)
class _Timed:
    growth: Steppable
    clock: Clock

    def step(self, loss: Tensor) -> None:
        with self.clock.of_growth():
            self.growth.step(loss)


def trained(task: Task, seed: int, epochs: int, grows: Grows) -> Trained:
    """Train a task from a seed while it grows by `grows`, and say what became of it."""
    seen: list[tuple[Splits, Clock, tuple[float, float]]] = []

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, splits: Splits) -> Iterator[_Timed]:
        clock = Clock(model)
        with ExitStack() as ending:
            with clock.of_growth():
                growth = ending.enter_context(grows(model, optimizer, splits))
            yield _Timed(growth, clock)
            with clock.of_growth():
                ending.close()
        seen.append((splits, clock, clock.stop()))

    with one_thread():
        result = train_task(task, seed, epochs, attach)
        splits, clock, (whole_s, cpu_s) = seen[0]
        return Trained(
            test_accuracy=result.test_accuracy,
            test_loss=_loss(result.model, splits.test),
            probe_loss=_loss(result.model, splits.probe),
            params=result.params,
            steps=result.steps,
            train_s=whole_s - clock.growth_s,
            probe_s=clock.probe_s,
            wait_s=clock.growth_s - clock.probe_s,
            cpu_s=cpu_s,
        )


def epochs_for(task: Task, steps: int) -> int:
    """Return the epochs whose steps come closest to a number of steps."""
    samples = len(task.load().train[1])
    return max(1, round(steps / ceil(samples / task.batch)))


def _loss(model: nn.Module, samples: Samples) -> float:
    inputs, labels = samples
    model.eval()
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs), labels))
