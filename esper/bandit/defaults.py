"""How a run chooses unless it is told."""

from typing import Final

from topics.models import PolicySpec, Selection

DEFAULT_POLICY: Final = PolicySpec(name="ucb1")
"""What chooses the blueprint."""

DEFAULT_SELECTION: Final = Selection(attention=PolicySpec(name="ucb1"))
"""What chooses the seed, and what no decision may break."""
