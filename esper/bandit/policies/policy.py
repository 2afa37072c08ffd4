"""What a policy is."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from esper.bandit.columns import ArmColumns, Experience, FloatArray
from esper.bandit.draws import Draws


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What a policy lets go of: trials more than `window` trials of the bandit ago (None: never),
    and with each trial of the bandit the share `1 - discount` of all earlier ones."""

    window: int | None = None
    discount: float = 1.0


NOTHING = Forgetting()


class Policy(Protocol):
    """Scores arms; the higher the sooner. `version` changes when scores would.

    It is made from the numeric parameters of a `PolicySpec` by keyword, and raises ValueError for
    values that `score` could not be called with. `contextual` policies get features and a model.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    contextual: ClassVar[bool]

    @property
    def forgetting(self) -> Forgetting:
        """What it lets go of; columns and totals are as of the rest."""
        ...

    def score(self, state: Experience, arms: ArmColumns, rng: Draws) -> FloatArray:
        """Return the scores (n,), in the order of the arms; infinity for one to be tried first.

        It reads nothing but its arguments, and rounds alike on every machine.
        """
        ...
