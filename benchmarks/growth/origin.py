"""Of which code a row is."""

import subprocess
from functools import cache
from typing import Final

from benchmarks.origin import ROOT

CODE: Final = (
    "topics",
    "esper",
    "workers",
    "benchmarks/stack.py",
    *(
        f"benchmarks/growth/{name}.py"
        for name in (
            "adapters",
            "by_gromo",
            "charlm",
            "contest",
            "controls",
            "digits",
            "known_answer",
            "planting",
            "race",
            "training",
            "widening",
        )
    ),
)
"""What a run depends on."""


@cache
def code() -> str:
    """Return the last commit that changed what a run depends on; with `+` where more did."""
    last = _git("log", "-1", "--format=%h", "--abbrev=12", "--", *CODE) or "unknown"
    return last + ("+" if _git("status", "--porcelain", "--", *CODE) else "")


def _git(*arguments: str) -> str:
    ended = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.stdout.strip()
