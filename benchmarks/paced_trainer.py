"""The digits host trained in a process of its own, so many steps at a time, and still in between.

Two of them take turns on one core: while one trains, the other is stopped by the kernel, threads
and all, and cannot be what disturbs it.
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
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.tasks.train import BATCH, LEARNING_RATE, Attach, DatasetSplits, Steppable, no_growth
from esper.topics.models import SeedState
from esper.training import Growth
from esper.training.grow import REPORT_EVERY

ANSWER_TIMEOUT_S: Final = 60.0
RUN: Final = "without-room"

SPENT: Final = (SeedState.LOADING, SeedState.BLENDING, SeedState.ACTIVE, SeedState.FOSSILIZED)
"""The way of a slot to its end."""


class Step(NamedTuple):
    """Seconds of a training step, of `growth.step` within it, and whether growth reports in it."""

    whole_s: float
    growth_s: float
    reports: bool


class Segment(NamedTuple):
    """Steps in a row."""

    steps: list[Step]


class PacedTrainer:
    """The parent's hold on one training process; a context manager."""

    def __init__(self, settings: Settings | None, core: int) -> None:
        """Start a trainer on a core, growing if there are settings to grow with."""
        context = get_context("spawn")
        self._link, other_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other_end, settings, core), daemon=True
        )
        self._process.start()
        # Else the pipe would stay open when the trainer dies, and waiting for it would not end.
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
        """Train for some steps in a row and stand still again.

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
            what = f"did not answer within {ANSWER_TIMEOUT_S:g} s"
        except EOFError:
            what = "ended; its last words are above"
        self._end()
        raise BenchmarkError(f"the training process {what}")

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
        # Only now, and only this thread: what growth has started stays where the pipeline is.
        os.sched_setaffinity(0, {core})
        link.send(None)
        while steps := link.recv():
            link.send(Segment([step() for _ in range(steps)]))


@contextmanager
def _training(settings: Settings | None, digits: DatasetSplits) -> Iterator[Callable[[], Step]]:
    """Give a function that trains the digits host one step."""
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
    """Return the indices of whole batches, in one random order."""
    return list(torch.randperm(images)[: images // BATCH * BATCH].view(-1, BATCH))


def _grow_without_room(
    settings: Settings, model: nn.Module, optimizer: Optimizer, digits: DatasetSplits
) -> Growth:
    """Attach growth that takes part in everything, but whose slots are all spent.

    Kernels are fetched and verified, reports are sent and folded. With no slot free nothing is
    ever planted: the network computes the same as one that does not grow, and any difference in
    time is the pipeline's.
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
