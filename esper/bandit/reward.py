"""From a measured contribution to a reward in [0, 1]."""

HALF_SATURATION = 0.05
"""The relative contribution per cost at which half of the range above neutral is reached."""

MOST_SHARE = 10.0
"""A contribution of more than this times the probe loss is not told apart from it."""


def reward_of(contribution: float, loss: float, params: int, host_params: int) -> float:
    """Return contribution per cost, squashed into (0, 1); 0.5 is a kernel that does nothing.

    `contribution` is probe loss without the seed minus `loss`, the probe loss with it; cost is
    one plus the kernel's parameters relative to the host's. u / (1 + |u|) squashes because it
    needs only operations that IEEE 754 rounds alike on every machine.
    """
    cost = 1.0 + params / max(host_params, 1)
    relative = contribution / max(abs(loss), 1e-12) / cost
    u = relative / HALF_SATURATION
    return 0.5 + 0.5 * u / (1.0 + abs(u))


def share_of(reward: float, params: int, host_params: int) -> float:
    """Return the contribution, as a share of the probe loss, that earns a reward in (0, 1).

    This is `reward_of` the other way round. At the ends of the range, which no contribution
    reaches, it is the share nearest to them that means anything: ten times the loss.
    """
    cost = 1.0 + params / max(host_params, 1)
    squashed = 2.0 * reward - 1.0
    left = 1.0 - abs(squashed)
    if left <= abs(squashed) * HALF_SATURATION / MOST_SHARE:
        return MOST_SHARE if squashed > 0 else -MOST_SHARE
    return min(MOST_SHARE, max(-MOST_SHARE, squashed / left * HALF_SATURATION * cost))
