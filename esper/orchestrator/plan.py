"""A plan: operations that belong together, and why, in words for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from esper.orchestrator.state import Trial
from esper.topics.models import Cull, Fossilize, Operation, Strategy

Clause = tuple[str, str]
"""A site, and what is said of it."""


@dataclass(frozen=True, slots=True)
class DecisionPlan:
    """What a strategy proposes; the trainer applies all operations at one step, or none.

    `request_id` is set where a person asked for it.
    """

    operations: tuple[Operation, ...]
    reason: str
    request_id: str | None = None

    @classmethod
    def of(
        cls, strategy: Strategy, operations: Sequence[Operation], clauses: Sequence[Clause]
    ) -> Self | None:
        """Return the plan of a strategy with what it has to say, site by site; none to do nothing.

        It reads like `conv2 · REPLACE: one thing, another; fc1: a third`.
        """
        if not operations:
            return None
        by_site: dict[str, list[str]] = {}
        for site, words in clauses:
            by_site.setdefault(site, []).append(words)
        said, intends = [], f" · {strategy.upper()}"
        for site, of_site in by_site.items():
            said.append(f"{site}{intends}: {', '.join(of_site)}")
            intends = ""
        return cls(tuple(operations), "; ".join(said))


def culling(trial: Trial) -> Cull:
    """The operation that removes what is on trial."""
    return Cull(site=trial.site, slot=trial.slot, kernel_id=trial.kernel_id)


def keeping(trial: Trial) -> Fossilize:
    """The operation that keeps for good what is on trial."""
    return Fossilize(site=trial.site, slot=trial.slot, kernel_id=trial.kernel_id)
