"""The random control that policies are compared with."""

from dataclasses import dataclass
from typing import ClassVar

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import NO_DISCOUNT, Discounting


@dataclass(frozen=True, slots=True)
class Random:
    """Score every arm at random: a control, as in Fisher, "The Design of Experiments" (1935)."""

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "Fisher 1935"
    use_when: ClassVar[str] = "a control is wanted"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False
    discounting: ClassVar[Discounting] = NO_DISCOUNT

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return random numbers."""
        return rng.uniforms(len(arms))
