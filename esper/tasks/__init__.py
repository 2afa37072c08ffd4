"""Shipped tasks: small, real, on every machine; each trains a host through the public API."""

from typing import Final

from esper.tasks.checkpoint import CheckpointUnusable, TrainingFile
from esper.tasks.digits import DIGITS, DigitsHost, load_digits
from esper.tasks.resnet import RESNET, ResNetHost
from esper.tasks.train import Splits, Task, TaskResult, train_task

TASKS: Final = {task.name: task for task in (DIGITS, RESNET)}

__all__ = [
    "DIGITS",
    "RESNET",
    "TASKS",
    "CheckpointUnusable",
    "DigitsHost",
    "ResNetHost",
    "Splits",
    "Task",
    "TaskResult",
    "TrainingFile",
    "load_digits",
    "train_task",
]
