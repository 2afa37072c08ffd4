"""Shipped tasks: small data sets that need no download, and hosts to train on them.

`train_task` takes a `Task` and a function that attaches growth, and returns a `TaskResult`.
"""

from typing import Final

from esper.tasks.charlm import CHARLM, CharacterHost, TextMissing, standard_library
from esper.tasks.checkpoint import CheckpointUnusable, TrainingCheckpoint
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.tasks.mnist1d import MNIST1D, MNIST1D_SHUFFLED, Mnist1dHost, load_mnist1d
from esper.tasks.resnet import RESNET, ResNetHost
from esper.tasks.sums import SUMS
from esper.tasks.teachers import (
    BILINEAR_SKIP,
    CONV_TEACHER,
    TEACHER_BLUEPRINTS,
    TEACHERS,
    KnownAnswerTask,
    ReaderHost,
    StudentHost,
    conv_teacher,
)
from esper.tasks.train import (
    BATCH,
    LEARNING_RATE,
    Attach,
    DatasetSplits,
    NoGrowth,
    OnEpoch,
    Samples,
    Steppable,
    Task,
    TaskResult,
    evaluate,
    no_growth,
    train_task,
)

TASKS: Final = {
    task.name: task
    for task in (DIGITS, MNIST1D, MNIST1D_SHUFFLED, RESNET, CONV_TEACHER.task, CHARLM)
}

__all__ = [
    "BATCH",
    "BILINEAR_SKIP",
    "CHARLM",
    "CONV_TEACHER",
    "DIGITS",
    "LEARNING_RATE",
    "MNIST1D",
    "MNIST1D_SHUFFLED",
    "RESNET",
    "SUMS",
    "TASKS",
    "TEACHERS",
    "TEACHER_BLUEPRINTS",
    "Attach",
    "CharacterHost",
    "CheckpointUnusable",
    "DatasetSplits",
    "DigitsHost",
    "KnownAnswerTask",
    "Mnist1dHost",
    "NoGrowth",
    "OnEpoch",
    "ReaderHost",
    "ResNetHost",
    "Samples",
    "Steppable",
    "StudentHost",
    "Task",
    "TaskResult",
    "TextMissing",
    "TrainingCheckpoint",
    "conv_teacher",
    "evaluate",
    "load_digits",
    "load_mnist1d",
    "no_growth",
    "standard_library",
    "train_task",
]
