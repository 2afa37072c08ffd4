"""Arms as arrays for policies: one array per number, one entry per arm."""

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esper.bandit.linear import LinearModel

FloatArray: TypeAlias = NDArray[np.float64]


LEAST_WEIGHT: Final = 1e-200
"""A number below 1e100 divided by this weight or a larger one is finite."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmArrays:
    """The statistics of n arms, prior pseudo-observations included.

    `weight` (n,) is the number of trials, `mean` (n,) their mean reward in [0, 1], `variance` (n,)
    their variance, 0 for a single trial. A discounting policy gets discounted or windowed values.
    `features` (n, d) is set for contextual policies only. `all_weigh` is true only if every weight
    exceeds `LEAST_WEIGHT`, so that dividing by the weights cannot overflow.
    """

    weight: FloatArray
    mean: FloatArray
    variance: FloatArray
    features: FloatArray | None = None
    all_weigh: bool = False

    def __len__(self) -> int:
        return len(self.weight)


class PolicyContext(NamedTuple):
    """The input of a policy beside the arms: the total number of trials, and the reward model of a
    contextual policy."""

    total: float
    model: LinearModel | None = None
