"""Digits: grown, never grown, wider, with fixed adapters, and grown by gromo."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter, process_time
from typing import Final

import torch.nn.functional as F
from torch import nn

from benchmarks.threads import one_thread
from esper.bandit import TOURNAMENT, TOURNAMENT_REPORT_EVERY, TOURNAMENT_SLOTS
from esper.tasks import DIGITS, DigitsHost, evaluate, load_digits
from experiments.growth.baselines import BaselineComparison
from experiments.growth.gromo_baseline import Schedule, grow_with_gromo
from experiments.growth.training import TrainingResult
from experiments.growth.widening import Size, widened

LEARNING_RATE: Final = 1e-2
"""Of the host and every network made from it: the best of 0.001, 0.003 and 0.01 for the host.

Chosen by probe accuracy on seeds 1000 to 1002.
"""

SCHEDULES: Final = {
    "gromo": Schedule(learning_rate=1e-3, start=0.5, rounds=2, share=0.3, normalised=True),
    "gromo-plain": Schedule(learning_rate=3e-3, start=0.25, rounds=3, share=0.6, normalised=False),
}
"""With batch normalisation, the library's default, and without, as in the host.

The best of the same learning rates, then of five schedules, by probe accuracy on seeds 1000 and
1001.
"""

SIZES: Final = (Size(4), Size(8), Size(12))

TASK: Final = replace(DIGITS, learning_rate=LEARNING_RATE)


def params_of(first: int, second: int, hidden: int) -> int:
    """Return the parameters of the host with these sizes."""
    convolutions = (9 + 1) * first + (9 * first + 1) * second
    return convolutions + (4 * second + 1) * hidden + (hidden + 1) * 10


def wide(params: int) -> nn.Module:
    """Return the host widened to about `params` parameters."""
    return DigitsHost(*widened(SIZES, params_of, params))


def train_with_gromo(schedule: Schedule, seed: int, params: int) -> TrainingResult:
    """Train the network that gromo grows to about `params` parameters."""
    splits = load_digits()
    start, cpu_start = perf_counter(), process_time()
    with one_thread():
        grown = grow_with_gromo(splits.train, seed, TASK.epochs, TASK.batch, params, schedule)
        wall_s, cpu_s = perf_counter() - start, process_time() - cpu_start
        test_loss, test_accuracy = evaluate(grown.model, F.cross_entropy, splits.test)
        probe_loss, _ = evaluate(grown.model, F.cross_entropy, splits.probe)
    return TrainingResult(
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        probe_loss=probe_loss,
        params=sum(parameter.numel() for parameter in grown.model.parameters()),
        steps=grown.steps,
        train_s=wall_s - grown.growth_s,
        probe_s=0.0,
        wait_s=grown.growth_s,
        cpu_s=cpu_s,
    )


_EXTRA_BASELINES: Final[dict[str, Callable[[int, int], TrainingResult]]] = {
    name: partial(train_with_gromo, schedule) for name, schedule in SCHEDULES.items()
}

COMPARISON: Final = BaselineComparison(
    task=TASK,
    wide=wide,
    auditions=True,
    extra_baselines=_EXTRA_BASELINES,
    selection=TOURNAMENT,
    report_every=TOURNAMENT_REPORT_EVERY,
    slots=TOURNAMENT_SLOTS,
)
SUITE: Final = COMPARISON.suite()
