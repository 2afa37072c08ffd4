"""The character language model: grown, never grown, wider and with fixed adapters.

The same steps at equal parameters; and, for host and wide, as long as the grown run took.
"""

from typing import Final

from torch import nn

from benchmarks.growth.contest import Contest
from benchmarks.growth.widening import Size, widened
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

SIZES: Final = (Size(WIDTH, step=HEADS), Size(4 * WIDTH))


def params_of(width: int, hidden: int) -> int:
    """Return the parameters of the host with these sizes."""
    attention = 4 * (width * width + width)
    mixing = (width + 1) * hidden + (hidden + 1) * width
    norms = 2 * 2 * width
    outside = (CHARACTERS + CONTEXT) * width + 2 * width + (width + 1) * CHARACTERS
    return BLOCKS * (attention + mixing + norms) + outside


def wide(params: int) -> nn.Module:
    """Return the host, widened to about so many parameters."""
    return CharacterHost(*widened(SIZES, params_of, params, at_most=3.0))


def data_sha256() -> str:
    """Return the digest of the text."""
    return standard_library().sha256


CONTEST: Final = Contest(task=CHARLM, wide=wide, lasting=True, data_sha256=data_sha256)
SUITE: Final = CONTEST.suite()
