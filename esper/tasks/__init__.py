"""Shipped tasks: small data sets that need no download, and hosts to train on them.

`train_task` takes a `Task` and a function that attaches growth, and returns a `TaskResult`.
"""

from typing import Final

from esper.tasks.charlm import CHARLM, CharacterHost, TextMissing, standard_library
from esper.tasks.checkpoint import CheckpointUnusable, TrainingCheckpoint
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.tasks.resnet import RESNET, ResNetHost
from esper.tasks.teachers import (
    CONV_TEACHER,
    TEACHER_BLUEPRINTS,
    TEACHERS,
    KnownAnswerTask,
    ReaderHost,
    StudentHost,
    conv_teacher,
)
from esper.tasks.train import DatasetSplits, Task, TaskResult, train_task

TASKS: Final = {task.name: task for task in (DIGITS, RESNET, CONV_TEACHER.task, CHARLM)}

__all__ = [
    "CHARLM",
    "CONV_TEACHER",
    "DIGITS",
    "RESNET",
    "TASKS",
    "TEACHERS",
    "TEACHER_BLUEPRINTS",
    "CharacterHost",
    "CheckpointUnusable",
    "DatasetSplits",
    "DigitsHost",
    "KnownAnswerTask",
    "ReaderHost",
    "ResNetHost",
    "StudentHost",
    "Task",
    "TaskResult",
    "TextMissing",
    "TrainingCheckpoint",
    "conv_teacher",
    "load_digits",
    "standard_library",
    "train_task",
]
