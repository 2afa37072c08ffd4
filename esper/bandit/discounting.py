"""What a policy lets go of, where rewards drift."""

from dataclasses import dataclass

MAX_WINDOW = 1000


@dataclass(frozen=True, slots=True)
class Discounting:
    """Trials of the bandit more than `window` trials ago count no more (None: all do), and each
    trial of the bandit leaves the share `discount` of what all earlier ones weigh.

    Raises:
        ValueError: neither could be kept in bounded memory, or forgets backwards.
    """

    window: int | None = None
    discount: float = 1.0

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window is {self.window!r} and must be from 1 to {MAX_WINDOW}")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount is {self.discount!r} and must be above 0, at most 1")


NO_DISCOUNT = Discounting()
