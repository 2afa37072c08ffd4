"""Progress of a run of faults, on standard error."""

import sys


def tell(text: str) -> None:
    """Print one line."""
    print(f"chaos: {text}", file=sys.stderr, flush=True)
