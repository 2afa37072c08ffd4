"""The control: what choosing is worth shows against not choosing."""

from dataclasses import dataclass
from typing import ClassVar

from esper.bandit.columns import ArmColumns, Experience, FloatArray
from esper.bandit.draws import Draws
from esper.bandit.forgetting import NOTHING, Forgetting


@dataclass(frozen=True, slots=True)
class Random:
    """Every arm with the same probability, whatever it has shown: a random control,
    as in Fisher, "The Design of Experiments" (1935)."""

    name: ClassVar[str] = "random"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    forgetting: ClassVar[Forgetting] = NOTHING

    def score(self, state: Experience, arms: ArmColumns, rng: Draws) -> FloatArray:
        """Return random numbers."""
        return rng.uniforms(len(arms))
