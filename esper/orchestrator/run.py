"""The settings of a run, which stay the same from its first report to its last."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import orjson

from esper.bandit import Policy, SeedSelector, SlotId, attention_for, policy_for
from esper.topics.codec import encode
from esper.topics.models import Priors, RunConfig, Selection, SelectionLimits

DEFAULT_WITHOUT_SELECTION: Final = Selection(
    limits=SelectionLimits(dormant_reports=0), priors=Priors(cost=0.0, memory=0.0, category=0.0)
)
"""The selection of a run whose run_config has none."""


@dataclass(frozen=True)
class RunContext:
    """The id and run_config of a run, and the values derived from them."""

    run_id: str
    run_config: RunConfig

    @property
    def selects(self) -> bool:
        """Whether the run_config has a selection; other runs keep their older stored bytes."""
        return self.run_config.selection is not None

    @cached_property
    def selection(self) -> Selection:
        """The selection of the run."""
        return self.run_config.selection or DEFAULT_WITHOUT_SELECTION

    @cached_property
    def policy(self) -> Policy:
        """The policy that scores blueprints.

        Raises:
            ValueError: the policy's name or a parameter is unknown or out of range.
        """
        return policy_for(self.run_config.policy)

    @cached_property
    def attention(self) -> Policy | None:
        """The policy that scores slots; None where `policy` alone chooses.

        Raises:
            ValueError: as `policy`, or the policy is contextual, and slots have no features.
        """
        spec = self.selection.attention
        return None if spec is None else attention_for(spec)

    @cached_property
    def selector(self) -> SeedSelector:
        """The selector with the run's policies, limits and seed."""
        return SeedSelector(
            policy=self.policy,
            attention=self.attention,
            limits=self.selection.limits,
            seed=self.run_config.seed,
            draw_per_arm=not self.selects,
        )

    @cached_property
    def slot_ids(self) -> tuple[SlotId, ...]:
        """All slots in the order of (site, slot)."""
        slots = self.run_config.slots
        return tuple(SlotId(site, slot) for site in sorted(slots) for slot in range(slots[site]))

    @cached_property
    def slot_index(self) -> dict[SlotId, int]:
        """The index of each slot in `slot_ids`."""
        return {slot_id: index for index, slot_id in enumerate(self.slot_ids)}

    @cached_property
    def signatures(self) -> dict[str, str]:
        """The signature of each site, as text."""
        return {site: facts.signature for site, facts in self.run_config.sites.items()}

    @cached_property
    def stored(self) -> dict[str, object]:
        """The constant part of the stored state, encoded for orjson."""
        stored = {"run_id": orjson.Fragment(orjson.dumps(self.run_id))}
        for name, value in orjson.loads(encode(self.run_config)).items():
            stored[name] = orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        return dict(stored)

    def check(self) -> None:
        """Raise ValueError where the run_config names an unknown policy or parameter."""
        _ = self.selector
