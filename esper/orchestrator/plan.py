"""A plan: operations that belong together, and why, in words for a person."""

from dataclasses import dataclass

from topics.models import Operation


@dataclass(frozen=True, slots=True)
class Plan:
    """What a strategy proposes; the trainer applies all operations at one step, or none.

    `request_id` is set where a person asked for it.
    """

    operations: tuple[Operation, ...]
    reason: str
    request_id: str | None = None
