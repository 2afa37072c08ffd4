"""The alphas of blending seeds, moved along their ramps at every step."""

from collections.abc import Callable

from esper.seed import Seed, Slot
from esper.topics.models import SeedState


class AlphaRamps:
    """The blending seeds with their slots."""

    def __init__(self) -> None:
        self._blending: list[tuple[Slot, Seed]] = []

    def start(self, slot: Slot, seed: Seed) -> None:
        """Move the alpha of a seed from the next `advance` on."""
        self._blending.append((slot, seed))

    def stop(self, slot: Slot) -> None:
        """Leave the alpha of the seed in a slot alone from now on."""
        self._blending = [pair for pair in self._blending if pair[0] is not slot]

    def advance(self, step: int) -> None:
        """Set every blending seed's alpha for `step`; make seeds at their final alpha ACTIVE."""
        if not self._blending:
            return
        for slot, seed in self._blending:
            seed.alpha.fill_(slot.alpha_at(step))
            if slot.ramp_progress(step) == 1.0:
                slot.advance(SeedState.ACTIVE, step)
        self._blending = [pair for pair in self._blending if pair[0].state is SeedState.BLENDING]

    def undo_point(self) -> Callable[[], None]:
        """Return a function that restores the present list of blending seeds."""
        blending = list(self._blending)

        def put_back() -> None:
            self._blending = blending

        return put_back
