"""Known-answer tasks: a teacher labels samples by a structure that the host lacks.

Which kernel the host needs, and where, is known, so that what growth chooses can be judged. One
teacher, `null`, is of the host's own family: there nothing should be planted.
"""

from collections.abc import Callable, Mapping
from typing import Final

from esper.tasks.teachers.blueprints import TEACHER_BLUEPRINTS
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
"""Each makes a task of a seed."""

CONV_TEACHER: Final = conv_teacher()

__all__ = [
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
