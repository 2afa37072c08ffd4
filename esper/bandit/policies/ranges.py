"""What parameters may be."""

from esper.bandit.discounting import MAX_WINDOW


def require(name: str, value: float, least: float, most: float) -> None:
    """Refuse a parameter that is not from `least` to `most`.

    Raises:
        ValueError: it is not, or it is no number.
    """
    if not least <= value <= most:
        raise ValueError(f"{name} is {value!r} and must be from {least:g} to {most:g}")


def require_window(value: float) -> None:
    """Refuse a window that is no whole number of trials, or that no history is kept for.

    Raises:
        ValueError: it is such.
    """
    if not (1 <= value <= MAX_WINDOW and value == int(value)):
        raise ValueError(f"window is {value!r} and must be a whole number from 1 to {MAX_WINDOW}")
