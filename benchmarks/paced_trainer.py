"""The digits host trained in its own process, a number of steps at a time, stopped in between.

Two trainers take turns on one core: while one trains, SIGSTOP holds the other with all its
threads, so that it cannot disturb the first.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

import esper
from benchmarks.result import BenchmarkError
from esper.settings import Settings
from esper.tasks import (
    BATCH,
    DIGITS,
    LEARNING_RATE,
    Attach,
    DatasetSplits,
    DigitsHost,
    Steppable,
    load_digits,
    no_growth,
)
from esper.topics.models import SeedState
from esper.training import REPORT_EVERY, Growth

ANSWER_TIMEOUT_S: Final = 60.0
RUN: Final = "without-room"

SPENT: Final = (SeedState.LOADING, SeedState.BLENDING, SeedState.ACTIVE, SeedState.FOSSILIZED)
"""The states of a slot up to its final state."""


class Step(NamedTuple):
    """Seconds of a training step and of its `growth.step`, and whether the step reports."""

    whole_s: float
    growth_s: float
    reports: bool


class Segment(NamedTuple):
    """Consecutive steps."""

    steps: list[Step]


class PacedTrainer:
    """The parent's handle of one training process; a context manager."""

    def __init__(self, settings: Settings | None, core: int) -> None:
        """Start a trainer on a core; it grows if `settings` are given."""
        context = get_context("spawn")
        self._link, other_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other_end, settings, core), daemon=True
        )
        self._process.start()
        # While this end is open here, `poll` would not notice that the trainer died.
        other_end.close()

    def __enter__(self) -> Self:
        self._answer()
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._process.is_alive():
            return
        self._signal(signal.SIGCONT)
        self._link.send(0)
        self._process.join(ANSWER_TIMEOUT_S)
        self._end()

    def train(self, steps: int) -> Segment:
        """Train for `steps` steps, then stop again.

        Raises:
            BenchmarkError: the process has ended, or does not answer.
        """
        self._signal(signal.SIGCONT)
        self._link.send(steps)
        segment: Segment = self._answer()
        self._signal(signal.SIGSTOP)
        return segment

    def _answer(self) -> Any:
        try:
            if self._link.poll(ANSWER_TIMEOUT_S):
                return self._link.recv()
            cause = f"did not answer within {ANSWER_TIMEOUT_S:g} s"
        except EOFError:
            cause = "ended; its error is above"
        self._end()
        raise BenchmarkError(f"the training process {cause}")

    def _end(self) -> None:
        self._process.kill()
        self._process.join()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


def _serve(link: Connection, settings: Settings | None, core: int) -> None:
    torch.set_num_threads(1)
    digits = load_digits()
    with _training(settings, digits) as step:
        # Only this thread moves: the processes and threads of growth stay on the pipeline's core.
        os.sched_setaffinity(0, {core})
        link.send(None)
        while steps := link.recv():
            link.send(Segment([step() for _ in range(steps)]))


@contextmanager
def _training(settings: Settings | None, digits: DatasetSplits) -> Iterator[Callable[[], Step]]:
    """Yield a call that trains the digits host for one step."""
    torch.manual_seed(0)
    model = DigitsHost()
    optimizer = Adam(model.parameters(), lr=LEARNING_RATE)
    images, labels = digits.train
    batches = cycle(_batches(len(images)))
    numbers = count(1)

    def train(growth: Steppable) -> Step:
        batch = next(batches)
        start = time.perf_counter()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        trained = time.perf_counter()
        growth.step(loss)
        end = time.perf_counter()
        return Step(end - start, end - trained, next(numbers) % REPORT_EVERY == 0)

    attach: Attach = no_growth if settings is None else partial(_grow_without_room, settings)
    with attach(model, optimizer, digits) as growth:
        yield partial(train, growth)


def _batches(images: int) -> list[Tensor]:
    """Return the sample indices of full batches, in a random order."""
    return list(torch.randperm(images)[: images // BATCH * BATCH].view(-1, BATCH))


def _grow_without_room(
    settings: Settings, model: nn.Module, optimizer: Optimizer, digits: DatasetSplits
) -> Growth:
    """Attach growth whose slots are all fossilized, so that no kernel can be planted.

    Kernels are still fetched and verified, reports sent and folded. The network computes the same
    as one without growth, so that any difference in time is the pipeline's.
    """
    growth = esper.grow(
        model,
        optimizer,
        sites=DIGITS.sites,
        probe=digits.probe,
        loss_fn=F.cross_entropy,
        run=RUN,
        report_every=REPORT_EVERY,
        config=esper.GrowConfig(settings=settings),
    )
    for site in growth.sites.values():
        for slot in site.slots:
            for state in SPENT:
                slot.advance(state, step=0)
    return growth
