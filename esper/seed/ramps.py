"""Ramps: how alpha rises from 0 to its target while a seed is blended in."""

from collections.abc import Callable, Mapping
from math import pi, sin
from typing import Final, Literal

Ramp = Callable[[float], float]
"""Map the elapsed share of the ramp's steps, in (0, 1], to the share of alpha, in (0, 1]."""


def linear(progress: float) -> float:
    """Return the progress itself: alpha grows by the same amount at each step."""
    return progress


def cosine(progress: float) -> float:
    """Return (1 - cos(pi * progress)) / 2: slow at both ends, fast between.

    Half a cosine, as in learning rate annealing (Loshchilov & Hutter, SGDR, 2017).
    """
    # The half-angle form: 1 - cos would round to 0 for the first step of a long ramp.
    return sin(pi * progress / 2) ** 2


RAMPS: Final[Mapping[Literal["linear", "cosine"], Ramp]] = {"linear": linear, "cosine": cosine}
"""The ramp of each name that a `Plant` may give."""
