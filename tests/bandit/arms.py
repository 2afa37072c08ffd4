"""Arms and states of bandits, for tests of policies."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from esper.bandit import ArmArrays, CounterRNG, LinearModel, PolicyContext

RNG = CounterRNG(1, 2, "test")

Trials = Sequence[tuple[float, float]]
"""Weight and mean of each arm."""

trials = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), min_size=1, max_size=20)


def columns(tried: Trials, features: Sequence[Sequence[float]] | None = None) -> ArmArrays:
    """Arms that were tried so often, with such means."""
    weight, mean = np.array(tried, dtype=np.float64).reshape(-1, 2).T
    x = None if features is None else np.array(features, dtype=np.float64)
    return ArmArrays(weight.copy(), mean.copy(), np.zeros(len(weight)), x)


def after(tried: Trials, model: LinearModel | None = None) -> PolicyContext:
    """What a bandit knows after exactly these trials."""
    return PolicyContext(float(sum(weight for weight, _ in tried)), model)
