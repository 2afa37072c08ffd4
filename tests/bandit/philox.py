"""Philox4x64-10 in plain Python, from the paper: Salmon et al., "Parallel Random Numbers: As Easy
as 1, 2, 3" (SC 2011), section 3.3."""

from collections.abc import Iterator

Words = tuple[int, int, int, int]

MASK = (1 << 64) - 1
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10


def block(counter: Words, key: tuple[int, int]) -> Words:
    """Return the four words that a counter becomes under a key."""
    for turn in range(ROUNDS):
        first, second = MULTIPLIERS[0] * counter[0], MULTIPLIERS[1] * counter[2]
        keys = [(half + turn * step) & MASK for half, step in zip(key, WEYL, strict=True)]
        counter = (
            (second >> 64) ^ counter[1] ^ keys[0],
            second & MASK,
            (first >> 64) ^ counter[3] ^ keys[1],
            first & MASK,
        )
    return counter


def stream(key: int) -> Iterator[int]:
    """Yield the words of the counters 1, 2, 3 and so on."""
    for counter in range(1, MASK):
        yield from block((counter, 0, 0, 0), (key & MASK, key >> 64))
