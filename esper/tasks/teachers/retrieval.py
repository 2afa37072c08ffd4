"""The retrieval teacher: the label of one position is the value stored at another."""

from functools import partial
from typing import Final

import torch
from torch import Generator, Tensor

from esper.tasks.teachers.hosts import READER_CLASSES, READER_INPUTS, ReaderHost, wide_reader
from esper.tasks.teachers.known_answer import KnownAnswerTask
from esper.tasks.teachers.vectors import SIZES, split
from esper.tasks.train import DatasetSplits, Task

POSITIONS: Final = 8
KEYS: Final = READER_INPUTS - READER_CLASSES


def retrieval_teacher(seed: int = 0) -> KnownAnswerTask:
    """Return a task in which the last position has a key, and the label is the key's value.

    `seed` determines the samples.
    """
    return KnownAnswerTask(
        task=Task(
            name="retrieval-teacher",
            summary="the value of a key, a host of 640 parameters that reads no other position",
            host=ReaderHost,
            sites=("front", "middle", "back"),
            load=lambda: _pairs(seed),
            epochs=48,
            learning_rate=1e-2,
            batch=64,
        ),
        site="front",
        blueprint_id="self-attention",
        wide=partial(wide_reader, 1744),
    )


def _pairs(seed: int) -> DatasetSplits:
    """Return sequences (N, 8, 16): seven pairs of a key and a value, then one of the keys again.

    The label is the value of that key. No key occurs in two pairs.
    """
    random = Generator().manual_seed(seed)
    count, pairs = sum(SIZES), POSITIONS - 1
    keys = torch.rand(count, KEYS, generator=random).argsort(dim=1)[:, :pairs]
    values = torch.randint(READER_CLASSES, (count, pairs), generator=random)
    asked = torch.randint(pairs, (count, 1), generator=random)
    sequences = torch.zeros(count, POSITIONS, READER_INPUTS)
    sequences[:, :pairs, :KEYS] = _one_hot(keys, KEYS)
    sequences[:, :pairs, KEYS:] = _one_hot(values, READER_CLASSES)
    sequences[:, -1, :KEYS] = _one_hot(keys.gather(1, asked)[:, 0], KEYS)
    return DatasetSplits(*split(sequences, values.gather(1, asked)[:, 0], SIZES))


def _one_hot(numbers: Tensor, count: int) -> Tensor:
    return torch.eye(count)[numbers]
