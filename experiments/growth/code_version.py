"""The version of the code that a row was run with."""

from functools import cache
from typing import Final

from benchmarks.origin import git

CODE: Final = (
    "topics",
    "esper",
    "workers",
    "benchmarks/stack.py",
    *(
        f"experiments/growth/{name}.py"
        for name in (
            "adapters",
            "baselines",
            "charlm",
            "controls",
            "digits",
            "gromo_baseline",
            "known_answer",
            "planting",
            "race",
            "training",
            "widening",
        )
    ),
)
"""The paths that a run depends on."""


@cache
def code() -> str:
    """Return the last commit that changed the code of a run; `+` marks uncommitted changes."""
    last = git("log", "-1", "--format=%h", "--abbrev=12", "--", *CODE) or "unknown"
    return last + ("+" if git("status", "--porcelain", "--", *CODE) else "")
