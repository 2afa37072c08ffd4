"""Teachers of vectors: each labels normal samples by a function of the input.

The host's bottleneck discards most of what the label depends on; no kernel behind it can
recover it. The `null` teacher has the bottleneck too.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from esper.tasks.teachers.blueprints import BILINEAR_SKIP
from esper.tasks.teachers.hosts import (
    BOTTLENECK,
    CLASSES,
    HIDDEN,
    INPUTS,
    StudentHost,
    wide_student,
)
from esper.tasks.teachers.known_answer import KnownAnswerTask
from esper.tasks.train import DatasetSplits, Samples, Task

SIDE: Final = 8
FILTERS: Final = 8
PRODUCTS: Final = 6
SIZES: Final = (4000, 500, 2000)
"""Samples for training, probe and test."""

MANY_SIZES: Final = (8000, 500, 2000)
"""The same, for a task whose 4,000 training samples any kernel could memorise."""


def conv_teacher(seed: int = 0) -> KnownAnswerTask:
    """Return a task whose labels depend on 3x3 patterns in images of 8x8, at any position.

    `seed` determines the teacher and its samples.
    """
    return _known(
        "conv-teacher",
        "patterns in 8x8 images, a flat host of 1,168 parameters that cannot see them",
        lambda: _labelled(seed, SIZES, _patterns),
        "image-conv",
        wide_params=2048,
    )


def gating_teacher(seed: int = 0) -> KnownAnswerTask:
    """Return a task whose labels depend on products of two projections of the input."""
    return _known(
        "gating-teacher",
        "products of two projections, a host whose bottleneck hides most of them",
        lambda: _labelled(seed, MANY_SIZES, _products),
        BILINEAR_SKIP.blueprint_id,
        wide_params=2416,
    )


def low_rank_teacher(seed: int = 0) -> KnownAnswerTask:
    """Return a task whose labels depend on a linear map of rank 10, of which 4 pass."""
    return _known(
        "low-rank-teacher",
        "a linear map of rank 10, a host that passes on 4",
        lambda: _labelled(seed, SIZES, _linear),
        "low-rank-skip-wide",
        wide_params=2224,
    )


def null_teacher(seed: int = 0) -> KnownAnswerTask:
    """Return a task labelled by a network like the host, which lacks nothing."""
    return _known(
        "null-teacher",
        "a host of 1,168 parameters that lacks nothing",
        lambda: _labelled(seed, SIZES, _another_student),
        None,
        wide_params=2048,
    )


def _known(
    name: str,
    summary: str,
    load: Callable[[], DatasetSplits],
    blueprint_id: str | None,
    *,
    wide_params: int,
) -> KnownAnswerTask:
    return KnownAnswerTask(
        task=Task(
            name=name,
            summary=summary,
            host=StudentHost,
            sites=("front", "middle", "back"),
            load=load,
            epochs=48,
            learning_rate=1e-2,
            batch=64,
        ),
        site=None if blueprint_id is None else "front",
        blueprint_id=blueprint_id,
        wide=partial(wide_student, wide_params),
    )


Teacher = Callable[[Tensor, Generator], Tensor]
"""Maps samples (N, 64) to a score of each class (N, 10)."""


def _labelled(seed: int, sizes: tuple[int, int, int], teacher: Teacher) -> DatasetSplits:
    """Return normal samples (N, 64), labelled with the class of the highest score."""
    random = Generator().manual_seed(seed)
    samples = torch.randn(sum(sizes), INPUTS, generator=random)
    return DatasetSplits(*split(samples, teacher(samples, random).argmax(dim=1), sizes))


def split(inputs: Tensor, labels: Tensor, sizes: tuple[int, int, int]) -> Iterator[Samples]:
    """Yield the samples for training, probe and test."""
    parts = list(sizes)
    return zip(torch.split(inputs, parts), torch.split(labels, parts), strict=True)


def _patterns(samples: Tensor, random: Generator) -> Tensor:
    filters = torch.randn(FILTERS, 1, 3, 3, generator=random)
    images = samples.view(-1, 1, SIDE, SIDE)
    pooled = F.relu(F.conv2d(images, filters, padding=1)).mean(dim=(2, 3))
    pooled = (pooled - pooled.mean(dim=0)) / pooled.std(dim=0)
    return pooled @ torch.randn(FILTERS, CLASSES, generator=random)


def _products(samples: Tensor, random: Generator) -> Tensor:
    one, other = (samples @ torch.randn(INPUTS, PRODUCTS, generator=random) for _ in range(2))
    return (one * other) @ torch.randn(PRODUCTS, CLASSES, generator=random)


def _linear(samples: Tensor, random: Generator) -> Tensor:
    return samples @ torch.randn(INPUTS, CLASSES, generator=random)


def _another_student(samples: Tensor, random: Generator) -> Tensor:
    def layer(inputs: int, outputs: int) -> Tensor:
        return torch.randn(inputs, outputs, generator=random) * math.sqrt(2 / inputs)

    front = F.relu(samples @ layer(INPUTS, BOTTLENECK) @ layer(BOTTLENECK, HIDDEN))
    middle = F.relu(front @ layer(HIDDEN, HIDDEN))
    back, mean = layer(HIDDEN, CLASSES), middle.mean(dim=0, keepdim=True)
    # Scores of mean 0, or one class would have nearly all samples; `back` stays a weight matrix.
    back = back - mean.T @ (mean @ back) / float(mean.square().sum())
    scores: Tensor = middle @ back
    return scores
