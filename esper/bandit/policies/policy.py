"""The protocol of a policy."""

from typing import ClassVar, Protocol

from esper.bandit.arm_arrays import ArmArrays, FloatArray, PolicyContext
from esper.bandit.counter_rng import CounterRNG
from esper.bandit.discounting import Discounting


class Policy(Protocol):
    """Score arms; the arm with the highest score is tried next.

    A policy is constructed with the numeric parameters of a `PolicySpec` as keywords and raises
    ValueError for invalid values. A change of its scores needs a new `version`. `contextual`
    policies get features and a model. `source` (authors and year) and `use_when` are cells of the
    table in `docs/choosing.md`.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    use_when: ClassVar[str]
    version: ClassVar[int]
    contextual: ClassVar[bool]

    @property
    def discounting(self) -> Discounting:
        """The discounting of the arms' statistics that `score` gets."""
        ...

    def score(self, context: PolicyContext, arms: ArmArrays, rng: CounterRNG) -> FloatArray:
        """Return the scores (n,) in the order of the arms; infinity for an arm to be tried first.

        Pure, and with the same bits on every machine.
        """
        ...
