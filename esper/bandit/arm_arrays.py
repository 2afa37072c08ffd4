"""Arms as policies see them: one column for each number, one entry for each arm."""

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esper.bandit.linear import LinearModel

FloatArray: TypeAlias = NDArray[np.float64]


LEAST_WEIGHT: Final = 1e-200
"""Dividing what is below 1e100 by this, or more, gives a finite number."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmArrays:
    """n arms: what each has shown so far, prior pseudo-observations included.

    `weight` (n,) is how many trials it counts as, `mean` (n,) their mean reward in [0, 1],
    `variance` (n,) their variance, 0 where one trial is all. A policy that forgets gets these as
    of what it still remembers. `features` (n, d) is given to contextual policies only. `all_weigh`
    is true only where no weight is 0, or so small that dividing by it could overflow.
    """

    weight: FloatArray
    mean: FloatArray
    variance: FloatArray
    features: FloatArray | None = None
    all_weigh: bool = False

    def __len__(self) -> int:
        return len(self.weight)


class PolicyContext(NamedTuple):
    """What a bandit knows beside its arms: the weights of all of them together, and, for a
    contextual policy, its model of rewards."""

    total: float
    model: LinearModel | None = None
