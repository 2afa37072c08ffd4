"""Known-answer tasks: a teacher labels samples by a structure that the host lacks.

The kernel that the host needs, and its site, are known, so that choices of growth can be checked.
The teacher `null` is a network like the host: nothing should be planted there.
"""

from collections.abc import Callable, Mapping
from typing import Final

from esper.tasks.teachers.blueprints import BILINEAR_SKIP, TEACHER_BLUEPRINTS
from esper.tasks.teachers.hosts import ReaderHost, StudentHost
from esper.tasks.teachers.known_answer import KnownAnswerTask
from esper.tasks.teachers.retrieval import retrieval_teacher
from esper.tasks.teachers.vectors import (
    conv_teacher,
    gating_teacher,
    low_rank_teacher,
    null_teacher,
)

TEACHERS: Final[Mapping[str, Callable[[int], KnownAnswerTask]]] = {
    "conv": conv_teacher,
    "gating": gating_teacher,
    "low-rank": low_rank_teacher,
    "retrieval": retrieval_teacher,
    "null": null_teacher,
}
"""Functions that make a task from a seed, by name."""

CONV_TEACHER: Final = conv_teacher()

__all__ = [
    "BILINEAR_SKIP",
    "CONV_TEACHER",
    "TEACHERS",
    "TEACHER_BLUEPRINTS",
    "KnownAnswerTask",
    "ReaderHost",
    "StudentHost",
    "conv_teacher",
    "gating_teacher",
    "low_rank_teacher",
    "null_teacher",
    "retrieval_teacher",
]
