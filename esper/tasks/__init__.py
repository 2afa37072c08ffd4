"""Shipped tasks: small, real, on every machine; each trains a host through the public API."""

from typing import Final

from esper.tasks.charlm import CHARLM, CharacterHost, TextMissing, standard_library
from esper.tasks.checkpoint import CheckpointUnusable, TrainingFile
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.tasks.resnet import RESNET, ResNetHost
from esper.tasks.teachers import (
    CONV_TEACHER,
    OFFERED,
    TEACHERS,
    KnownAnswer,
    ReaderHost,
    StudentHost,
    conv_teacher,
)
from esper.tasks.train import Splits, Task, TaskResult, train_task

TASKS: Final = {task.name: task for task in (DIGITS, RESNET, CONV_TEACHER.task, CHARLM)}

__all__ = [
    "CHARLM",
    "CONV_TEACHER",
    "DIGITS",
    "OFFERED",
    "RESNET",
    "TASKS",
    "TEACHERS",
    "CharacterHost",
    "CheckpointUnusable",
    "DigitsHost",
    "KnownAnswer",
    "ReaderHost",
    "ResNetHost",
    "Splits",
    "StudentHost",
    "Task",
    "TaskResult",
    "TextMissing",
    "TrainingFile",
    "conv_teacher",
    "load_digits",
    "standard_library",
    "train_task",
]
