"""Discounting of old trials, for rewards that drift."""

from dataclasses import dataclass

MAX_WINDOW = 1000


@dataclass(frozen=True, slots=True)
class Discounting:
    """Count only the bandit's last `window` trials (None: all), and multiply the weight of all
    earlier trials by `discount` with every trial.

    Raises:
        ValueError: `window` is not in [1, MAX_WINDOW], or `discount` is not in (0, 1].
    """

    window: int | None = None
    discount: float = 1.0

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window is {self.window!r} and must be from 1 to {MAX_WINDOW}")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount is {self.discount!r} and must be above 0, at most 1")


NO_DISCOUNT = Discounting()
