"""A task with a known answer: the kernel that its host lacks, and the site for it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from esper.tasks.train import Task


@dataclass(frozen=True, slots=True)
class KnownAnswerTask:
    """A task with the site and the blueprint that its host lacks; None: the host lacks nothing.

    `wide` makes the baseline without growth: the host widened to at least as many parameters as the
    host with the kernel.
    """

    task: Task
    site: str | None
    blueprint_id: str | None
    wide: Callable[[], nn.Module]
