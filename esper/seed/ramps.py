"""The shapes in which a seed is blended in: what share of its alpha it has on the way there."""

from collections.abc import Callable, Mapping
from math import pi, sin
from typing import Final, Literal

Ramp = Callable[[float], float]
"""From the share of the ramp's steps that have passed, in (0, 1], to that of alpha, in (0, 1]."""


def linear(passed: float) -> float:
    """Return a share that grows by as much at each step."""
    return passed


def cosine(passed: float) -> float:
    """Return (1 - cos(pi * passed)) / 2: slow at both ends, fast between.

    Half a cosine is how learning rates are annealed since Loshchilov & Hutter, SGDR, 2017.
    """
    # The same by its half angle: 1 - cos would be 0 for the first step of a long ramp.
    return sin(pi * passed / 2) ** 2


RAMPS: Final[Mapping[Literal["linear", "cosine"], Ramp]] = {"linear": linear, "cosine": cosine}
"""The shape of each name that a `Plant` may give."""
