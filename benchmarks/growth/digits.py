"""Digits: grown, never grown, wider, with fixed adapters, and grown by gromo."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter, process_time
from typing import Final

import torch.nn.functional as F
from torch import nn

from benchmarks.growth.by_gromo import Schedule, grow_by_gromo
from benchmarks.growth.contest import Contest
from benchmarks.growth.training import Trained
from benchmarks.growth.widening import Size, widened
from benchmarks.threads import one_thread
from esper.bandit import TOURNAMENT, TOURNAMENT_REPORT_EVERY, TOURNAMENT_SLOTS
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.tasks.train import evaluate

LEARNING_RATE: Final = 1e-2
"""Of the host and all that is made from it: the best of 0.001, 0.003 and 0.01 for the host alone.

By the accuracy on the probe samples, on seeds 1000 to 1002.
"""

SCHEDULES: Final = {
    "gromo": Schedule(learning_rate=1e-3, start=0.5, rounds=2, share=0.3, normalised=True),
    "gromo-plain": Schedule(learning_rate=3e-3, start=0.25, rounds=3, share=0.6, normalised=False),
}
"""With batch normalisation, as the library has it, and without any, as the host has it.

The best of the same rates, then of five schedules, by the accuracy on the probe samples, on seeds
1000 and 1001.
"""

SIZES: Final = (Size(4), Size(8), Size(12))

TASK: Final = replace(DIGITS, learning_rate=LEARNING_RATE)


def params_of(first: int, second: int, hidden: int) -> int:
    """Return the parameters of the host with these sizes."""
    convolutions = (9 + 1) * first + (9 * first + 1) * second
    return convolutions + (4 * second + 1) * hidden + (hidden + 1) * 10


def wide(params: int) -> nn.Module:
    """Return the host, widened to about so many parameters."""
    return DigitsHost(*widened(SIZES, params_of, params))


def by_gromo(schedule: Schedule, seed: int, params: int) -> Trained:
    """Train the network that grows by gromo until it has about so many parameters."""
    splits = load_digits()
    start, cpu_start = perf_counter(), process_time()
    with one_thread():
        grown = grow_by_gromo(splits.train, seed, TASK.epochs, TASK.batch, params, schedule)
        lasted_s, cpu_s = perf_counter() - start, process_time() - cpu_start
        test_loss, test_accuracy = evaluate(grown.model, F.cross_entropy, splits.test)
        probe_loss, _ = evaluate(grown.model, F.cross_entropy, splits.probe)
    return Trained(
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        probe_loss=probe_loss,
        params=sum(parameter.numel() for parameter in grown.model.parameters()),
        steps=grown.steps,
        train_s=lasted_s - grown.growth_s,
        probe_s=0.0,
        wait_s=grown.growth_s,
        cpu_s=cpu_s,
    )


_OTHERS: Final[dict[str, Callable[[int, int], Trained]]] = {
    name: partial(by_gromo, schedule) for name, schedule in SCHEDULES.items()
}

CONTEST: Final = Contest(
    task=TASK,
    wide=wide,
    others=_OTHERS,
    selection=TOURNAMENT,
    report_every=TOURNAMENT_REPORT_EVERY,
    slots=TOURNAMENT_SLOTS,
)
SUITE: Final = CONTEST.suite()
