"""Upper confidence bounds: optimism in proportion to what is not known."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from esper.bandit.columns import ArmColumns, Experience, FloatArray
from esper.bandit.draws import Draws
from esper.bandit.forgetting import NOTHING, Forgetting

LOG_DIGITS = 12
MAX_EXPLORATION = 1e6


@dataclass(frozen=True, slots=True)
class UCB1:
    """UCB1: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem"
    (Machine Learning 47, 2002), figure 1: mean + sqrt(exploration * ln(t) / trials).

    Rewards must be in [0, 1]. Every arm is tried once before any is tried twice, unless it has a
    prior; `exploration` is 2 as in the paper unless given.
    """

    exploration: float = 2.0

    name: ClassVar[str] = "ucb1"
    version: ClassVar[int] = 1
    contextual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.exploration <= MAX_EXPLORATION:
            raise ValueError(
                f"exploration is {self.exploration!r} and must be from 0 to {MAX_EXPLORATION:g}"
            )

    @property
    def forgetting(self) -> Forgetting:
        """Nothing."""
        return NOTHING

    def score(self, state: Experience, arms: ArmColumns, rng: Draws) -> FloatArray:
        """Return the upper confidence bound of each arm."""
        # The last bits of log differ between C libraries, and the audit compares bytes.
        log_total = round(math.log(max(state.total, 1.0)), LOG_DIGITS)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = arms.mean + np.sqrt(self.exploration * log_total / arms.weight)
        return np.where(arms.weight > 0.0, bound, np.inf)
