"""A task whose answer is known: which kernel its host lacks, and where."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from esper.tasks.train import Task


@dataclass(frozen=True, slots=True)
class KnownAnswerTask:
    """A task with the site and the blueprint that give its host what it lacks; None: nothing.

    `wide` makes the rival that never grows: the same host with at least as many parameters as the
    host with its kernel.
    """

    task: Task
    site: str | None
    blueprint_id: str | None
    wide: Callable[[], nn.Module]
