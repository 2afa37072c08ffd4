"""What stays as it is from a run's opening to its end."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import orjson

from esper.bandit import Policy, SeedSelector, SlotId, attention_for, policy_for
from esper.topics.codec import encode
from esper.topics.models import Priors, RunConfig, Selection, SelectionLimits

BEFORE_SELECTION: Final = Selection(
    limits=SelectionLimits(dormant_reports=0), priors=Priors(cost=0.0, memory=0.0, category=0.0)
)
"""How runs were decided whose opening has no selection."""


@dataclass(frozen=True)
class RunContext:
    """A run's id and opening, and what follows from them."""

    run_id: str
    run_config: RunConfig

    @property
    def selects(self) -> bool:
        """Whether the opening says how to select; of other runs the old bytes must come out."""
        return self.run_config.selection is not None

    @cached_property
    def selection(self) -> Selection:
        """How the run chooses."""
        return self.run_config.selection or BEFORE_SELECTION

    @cached_property
    def policy(self) -> Policy:
        """The policy for blueprints.

        Raises:
            ValueError: there is none of that name, or not with these parameters.
        """
        return policy_for(self.run_config.policy)

    @cached_property
    def attention(self) -> Policy | None:
        """The policy for seats, where there is one.

        Raises:
            ValueError: there is none of that name, or it is contextual, which seats are not.
        """
        spec = self.selection.attention
        return None if spec is None else attention_for(spec)

    @cached_property
    def selector(self) -> SeedSelector:
        """What chooses by these policies and limits."""
        return SeedSelector(
            policy=self.policy,
            attention=self.attention,
            limits=self.selection.limits,
            seed=self.run_config.seed,
            draw_each=not self.selects,
        )

    @cached_property
    def seats(self) -> tuple[SlotId, ...]:
        """All seats, in order."""
        slots = self.run_config.slots
        return tuple(SlotId(site, slot) for site in sorted(slots) for slot in range(slots[site]))

    @cached_property
    def seat_places(self) -> dict[SlotId, int]:
        """Where each seat stands among them."""
        return {seat: place for place, seat in enumerate(self.seats)}

    @cached_property
    def signatures(self) -> dict[str, str]:
        """The signature of each site, as text."""
        return {site: facts.signature for site, facts in self.run_config.sites.items()}

    @cached_property
    def stored(self) -> dict[str, object]:
        """The part of the stored state that never changes, ready for orjson."""
        stored = {"run_id": orjson.Fragment(orjson.dumps(self.run_id))}
        for name, value in orjson.loads(encode(self.run_config)).items():
            stored[name] = orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        return dict(stored)

    def check(self) -> None:
        """Raise ValueError, in words, where the run asks for what there is not."""
        _ = self.selector
