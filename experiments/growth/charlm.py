"""Character language model: grown, never grown, wider, and with fixed adapters.

Baselines of equal parameters train for the same steps; host and wide also as long as the grown run.
"""

from typing import Final

from torch import nn

from esper.tasks.charlm import (
    BLOCKS,
    CHARACTERS,
    CHARLM,
    CONTEXT,
    HEADS,
    WIDTH,
    CharacterHost,
    standard_library,
)
from experiments.growth.baselines import BaselineComparison
from experiments.growth.widening import Size, widened

SIZES: Final = (Size(WIDTH, step=HEADS), Size(4 * WIDTH))


def params_of(width: int, hidden: int) -> int:
    """Return the parameters of the host with these sizes."""
    attention = 4 * (width * width + width)
    mixing = (width + 1) * hidden + (hidden + 1) * width
    norms = 2 * 2 * width
    outside = (CHARACTERS + CONTEXT) * width + 2 * width + (width + 1) * CHARACTERS
    return BLOCKS * (attention + mixing + norms) + outside


def wide(params: int) -> nn.Module:
    """Return the host widened to about `params` parameters."""
    return CharacterHost(*widened(SIZES, params_of, params, at_most=3.0))


def data_sha256() -> str:
    """Return the digest of the text."""
    return standard_library().sha256


COMPARISON: Final = BaselineComparison(
    task=CHARLM, wide=wide, time_matched=True, data_sha256=data_sha256
)
SUITE: Final = COMPARISON.suite()
