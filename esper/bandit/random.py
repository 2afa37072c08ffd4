"""Randomness that replays: a number is a function of what it is for, never of what came before."""

import hashlib


def uniform(seed: int, seq: int, purpose: str, index: int) -> float:
    """Return a number in [0, 1), the same for the same arguments everywhere.

    Counter-based in the sense of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
    (SC 2011), with BLAKE2b as the block function; the upper 53 bits make the float.
    """
    counter = f"{seed}/{seq}/{purpose}/{index}".encode()
    block = hashlib.blake2b(counter, digest_size=8).digest()
    return (int.from_bytes(block, "big") >> 11) / (1 << 53)
