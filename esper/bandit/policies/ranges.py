"""Range checks of policy parameters."""

from esper.bandit.discounting import MAX_WINDOW


def require(name: str, value: float, least: float, most: float) -> None:
    """Check that a parameter is between `least` and `most`.

    Raises:
        ValueError: the value is out of range or NaN.
    """
    if not least <= value <= most:
        raise ValueError(f"{name} is {value!r} and must be from {least:g} to {most:g}")


def require_window(value: float) -> None:
    """Check that a window is a whole number from 1 to `MAX_WINDOW`.

    Raises:
        ValueError: the window is not.
    """
    if not (1 <= value <= MAX_WINDOW and value == int(value)):
        raise ValueError(f"window is {value!r} and must be a whole number from 1 to {MAX_WINDOW}")
