"""Convert between measured contributions and rewards in [0, 1]."""

HALF_SATURATION = 0.05
"""The relative contribution per cost that earns a reward of 0.75, halfway above neutral."""

MAX_SHARE = 10.0
"""Shares of the probe loss are capped at plus and minus this."""


def reward_of(contribution: float, loss: float, params: int, host_params: int) -> float:
    """Return the contribution per cost, squashed into (0, 1); 0.5 means no effect.

    `contribution` is the probe loss without the seed minus `loss`, the probe loss with the seed.
    The cost is one plus the kernel's parameters relative to the host's. The squashing function
    u / (1 + |u|) uses only operations that IEEE 754 rounds alike on every machine.
    """
    cost = 1.0 + params / max(host_params, 1)
    relative = contribution / max(abs(loss), 1e-12) / cost
    u = relative / HALF_SATURATION
    return 0.5 + 0.5 * u / (1.0 + abs(u))


def share_of(reward: float, params: int, host_params: int) -> float:
    """Return the contribution, as a share of the probe loss, that earns a reward.

    The inverse of `reward_of`, capped at `MAX_SHARE`, since no contribution earns 0 or 1.
    """
    cost = 1.0 + params / max(host_params, 1)
    squashed = 2.0 * reward - 1.0
    left = 1.0 - abs(squashed)
    if left <= abs(squashed) * HALF_SATURATION / MAX_SHARE:
        return MAX_SHARE if squashed > 0 else -MAX_SHARE
    return min(MAX_SHARE, max(-MAX_SHARE, squashed / left * HALF_SATURATION * cost))
