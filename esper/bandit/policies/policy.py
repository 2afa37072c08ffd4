"""What a policy is."""

from typing import ClassVar, Protocol

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import Discounting


class Policy(Protocol):
    """Scores arms; the higher the sooner. `version` changes when scores would.

    It is made from the numeric parameters of a `PolicySpec` by keyword, and raises ValueError for
    values that `score` could not be called with. `contextual` policies get features and a model.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    contextual: ClassVar[bool]

    @property
    def discounting(self) -> Discounting:
        """What it lets go of; columns and totals are as of the rest."""
        ...

    def score(self, state: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the scores (n,), in the order of the arms; infinity for one to be tried first.

        It reads nothing but its arguments, and rounds alike on every machine.
        """
        ...
