"""What a contextual policy sees of an arm."""

from collections.abc import Mapping, Sequence

import numpy as np

from esper.bandit.columns import FloatArray
from topics.models import LoadableKernel, SiteFacts


def features(
    facts: Mapping[str, SiteFacts],
    gradients: Mapping[str, float],
    kernels: Sequence[LoadableKernel],
) -> FloatArray:
    """Return the features (n, d) of kernels at their sites."""
    return np.ones((len(kernels), 1))
