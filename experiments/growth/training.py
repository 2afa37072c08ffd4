"""One training run of an experiment: its outcome, and where its time went."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from time import perf_counter, process_time
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.threads import one_thread
from esper.tasks import DatasetSplits, Steppable, Task, evaluate, train_task
from experiments.growth.code_version import code
from experiments.growth.rows import Case, RunRow

Grows = Callable[[nn.Module, Optimizer, DatasetSplits], AbstractContextManager[Steppable]]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The outcome of a training; `train_s`, `probe_s` and `wait_s` add up to its wall time."""

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
    """Splits the time of one training into training, probes, and growth with its probes.

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
        """Count the block as growth, with its probes."""
        start = perf_counter()
        try:
            yield
        finally:
            self.growth_s += perf_counter() - start

    def stop(self) -> tuple[float, float]:
        """Remove the hooks; return wall seconds and CPU seconds of all threads of this process."""
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


def train_run(
    task: Task, seed: int, epochs: int, grows: Grows, time_limit_s: float = math.inf
) -> TrainingResult:
    """Train a task with a seed while `grows` grows it; return the outcome.

    Training ends after `epochs`, or with the first step after `time_limit_s` seconds.
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
            task, seed, epochs, attach, should_stop=lambda: clocks[0].passed_s >= time_limit_s
        )
        splits, clock, (whole_s, cpu_s) = seen[0]
        return TrainingResult(
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


def row_of(case: Case, result: TrainingResult, **more: Any) -> RunRow:
    """Return the row of a run; `more` are further columns."""
    measured = {field.name: getattr(result, field.name) for field in fields(result)}
    return RunRow(**case._asdict(), commit=code(), **measured, **more)


def epochs_for(task: Task, steps: int) -> int:
    """Return the number of epochs whose steps are closest to `steps`."""
    samples = len(task.load().train[1])
    return max(1, round(steps / math.ceil(samples / task.batch)))
