"""How a run chooses unless it is told.

UCB1's bonus is for rewards that spread over all of [0, 1]: with a standard deviation of s it is
8 s² that replaces the 2 of the paper, which is 8 / 4. Rewards of one blueprint at one site were
seen to spread by 0.05, those of a site with whatever is planted there by 0.1
(`python -m benchmarks convergence`).
"""

from typing import Final

from topics.models import PolicySpec, Selection

DEFAULT_POLICY: Final = PolicySpec(name="ucb1", params={"exploration": 0.02})
"""What chooses the blueprint."""

DEFAULT_SELECTION: Final = Selection(
    attention=PolicySpec(name="ucb1", params={"exploration": 0.08})
)
"""What chooses the seed, and what no decision may break."""
