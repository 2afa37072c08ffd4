"""Randomness that replays: a number is a function of what it is for, never of what came before."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-53


def uniform(seed: int, seq: int, purpose: str, index: int) -> float:
    """Return a number in [0, 1), the same for the same arguments everywhere.

    Counter-based in the sense of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
    (SC 2011), with BLAKE2b as the block function; the upper 53 bits make the float.
    """
    block = _block(f"{seed}/{seq}/{purpose}/{index}", 8)
    return (int.from_bytes(block, "big") >> 11) * _UNIT


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one decision, by purpose and place: asking twice gives the same."""

    seed: int
    seq: int
    purpose: str

    def uniforms(self, count: int, part: str = "") -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1).

        They are the upper 53 bits of Philox4x64-10 (Salmon et al., SC 2011) from counter 0, under
        a key that is the BLAKE2b digest of seed, seq, purpose and part.
        """
        key = int.from_bytes(_block(f"{self.seed}/{self.seq}/{self.purpose}/{part}", 16), "big")
        words = np.random.Philox(key=key).random_raw(count)
        return (words >> np.uint64(11)).astype(np.float64) * _UNIT


def _block(counter: str, size: int) -> bytes:
    return hashlib.blake2b(counter.encode(), digest_size=size).digest()
