"""One training of an experiment: what it came to, and where its time went."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from time import perf_counter, process_time
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.growth.origin import code
from benchmarks.growth.rows import Case, Row
from benchmarks.threads import one_thread
from esper.tasks.train import DatasetSplits, Steppable, Task, evaluate, train_task

Grows = Callable[[nn.Module, Optimizer, DatasetSplits], AbstractContextManager[Steppable]]


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

    @property
    def passed_s(self) -> float:
        """Seconds since the clock was made."""
        return perf_counter() - self._began

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
        return self.passed_s, process_time() - self._cpu_began

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


def trained(
    task: Task, seed: int, epochs: int, grows: Grows, lasting_s: float = math.inf
) -> Trained:
    """Train a task from a seed while it grows by `grows`, and say what became of it.

    It ends with the step by which it has lasted so many seconds, if that comes first.
    """
    clocks: list[Clock] = []
    seen: list[tuple[DatasetSplits, Clock, tuple[float, float]]] = []

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[_Timed]:
        clock = Clock(model)
        clocks.append(clock)
        with ExitStack() as ending:
            with clock.of_growth():
                growth = ending.enter_context(grows(model, optimizer, splits))
            yield _Timed(growth, clock)
            with clock.of_growth():
                ending.close()
        seen.append((splits, clock, clock.stop()))

    with one_thread():
        result = train_task(
            task, seed, epochs, attach, should_stop=lambda: clocks[0].passed_s >= lasting_s
        )
        splits, clock, (whole_s, cpu_s) = seen[0]
        return Trained(
            test_accuracy=result.test_accuracy,
            test_loss=result.test_loss,
            probe_loss=evaluate(result.model, task.loss, splits.probe)[0],
            params=result.params,
            steps=result.steps,
            train_s=whole_s - clock.growth_s,
            probe_s=clock.probe_s,
            wait_s=clock.growth_s - clock.probe_s,
            cpu_s=cpu_s,
        )


def row_of(case: Case, result: Trained, **more: Any) -> Row:
    """Return the row of a run, with what else is to be told of it."""
    measured = {each.name: getattr(result, each.name) for each in fields(result)}
    return Row(**case._asdict(), commit=code(), **measured, **more)


def epochs_for(task: Task, steps: int) -> int:
    """Return the epochs whose steps come closest to a number of steps."""
    samples = len(task.load().train[1])
    return max(1, round(steps / math.ceil(samples / task.batch)))
