"""Counter-based random numbers: a number depends on its key and counter, never on earlier draws."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esper.bandit.portable import log, normal_quantile

_UNIT = 2.0**-53
_LEAST = 2.0**-54
"""Replaces a uniform 0, which has no logarithm."""

_SQUEEZE = 0.0331


def uniform(seed: int, seq: int, purpose: str, index: int) -> float:
    """Return a number in [0, 1), the same for the same arguments everywhere.

    Counter-based in the sense of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
    (SC 2011), with BLAKE2b as the block function; the upper 53 bits make the float.
    """
    block = _block(f"{seed}/{seq}/{purpose}/{index}", 8)
    return (int.from_bytes(block, "big") >> 11) * _UNIT


class CounterRNG(NamedTuple):
    """The random numbers of one decision and purpose; repeated calls return the same numbers."""

    seed: int
    seq: int
    purpose: str

    def uniforms(self, count: int, part: str = "") -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1).

        The numbers are the upper 53 bits of Philox4x64-10 (Salmon et al., SC 2011)
        from counter 1. The key is the BLAKE2b digest of seed, seq, purpose and part.
        """
        key = int.from_bytes(_block(f"{self.seed}/{self.seq}/{self.purpose}/{part}", 16), "big")
        words = np.random.Philox(key=key).random_raw(count)
        return (words >> np.uint64(11)).astype(np.float64) * _UNIT

    def positive_uniforms(self, count: int, part: str = "") -> NDArray[np.float64]:
        """Return `count` numbers in (0, 1): `uniforms` with 2^-54 in place of 0."""
        return np.maximum(self.uniforms(count, part), _LEAST)

    def normals(self, count: int, part: str = "") -> NDArray[np.float64]:
        """Return `count` standard normal numbers, by the inverse of the distribution function."""
        return normal_quantile(self.positive_uniforms(count, part))

    def gammas(self, shapes: NDArray[np.float64], part: str = "") -> NDArray[np.float64]:
        """Return one draw per shape from the gamma distribution with scale 1.

        Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables" (ACM Transactions on
        Mathematical Software 26, 2000). A rejected entry is drawn again from
        uniforms of its own attempt and index, so entries do not depend on each other.

        Raises:
            ValueError: a shape is below 1 or not finite.
        """
        if not np.all((shapes >= 1.0) & (shapes < np.inf)):
            raise ValueError(
                f"gamma shapes are {shapes.min()} to {shapes.max()}; give finite ones of at least 1"
            )
        scale = shapes - 1.0 / 3.0
        slope = 1.0 / np.sqrt(9.0 * scale)
        found = np.empty_like(scale)
        pending = np.arange(len(shapes))
        attempt = 0
        while len(pending):
            uniforms = self.positive_uniforms(2 * len(shapes), f"{part}/{attempt}")
            normals = normal_quantile(uniforms[0::2][pending])
            root = 1.0 + slope[pending] * normals
            cubes = root * root * root
            accepted = _accepted(normals, cubes, uniforms[1::2][pending], scale[pending])
            taken = pending[accepted]
            found[taken] = scale[taken] * cubes[accepted]
            pending, attempt = pending[~accepted], attempt + 1
        return found

    def betas(
        self, a: NDArray[np.float64], b: NDArray[np.float64], part: str = ""
    ) -> NDArray[np.float64]:
        """Return one draw per (a, b) from the beta distribution, the ratio g(a) / (g(a) + g(b)).

        Raises:
            ValueError: an `a` or `b` is below 1 or not finite.
        """
        gammas = self.gammas(np.stack((a, b), axis=1).ravel(), part)
        first, second = gammas[0::2], gammas[1::2]
        return first / (first + second)


def _accepted(
    normals: NDArray[np.float64],
    cubes: NDArray[np.float64],
    uniforms: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> NDArray[np.bool_]:
    squares = normals * normals
    accepted: NDArray[np.bool_] = (uniforms < 1.0 - _SQUEEZE * (squares * squares)) & (cubes > 0.0)
    doubtful = np.nonzero(~accepted & (cubes > 0.0))[0]
    if len(doubtful):
        d, v = scale[doubtful], cubes[doubtful]
        accepted[doubtful] = log(uniforms[doubtful]) < 0.5 * squares[doubtful] + d * (
            (1.0 - v) + log(v)
        )
    return accepted


def _block(counter: str, size: int) -> bytes:
    return hashlib.blake2b(counter.encode(), digest_size=size).digest()
