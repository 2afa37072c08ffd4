"""A task whose answer is known: which kernel its host lacks, and where."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from esper.tasks.train import Task
from topics.models import Blueprint


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A task with the site and the blueprint that give its host what it lacks; None: nothing.

    `offered` are the blueprints to choose from, the right one among them. `wide` makes the rival
    that never grows: the same host with at least as many parameters as the host and its kernel.
    """

    task: Task
    site: str | None
    blueprint_id: str | None
    offered: tuple[Blueprint, ...]
    wide: Callable[[], nn.Module]
