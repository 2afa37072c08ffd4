"""One slot of a site: its state, and what is planted in it."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from esper.seed.states import TRANSITIONS, IllegalTransition
from topics.models import Plant, SeedState


@dataclass(slots=True)
class Slot:
    """Where one seed lives; `planted` is the operation that filled it, None while dormant.

    `decision_id` names the decision of that operation, `since_step` is the training step at which
    the present state began. `merged_sha256` is the digest of the artifact that the site's layer
    took in for good, which has left the bank; None while what was planted runs beside the layer.
    """

    site: str
    index: int
    state: SeedState = SeedState.DORMANT
    planted: Plant | None = None
    decision_id: str | None = None
    since_step: int = 0
    merged_sha256: str | None = None

    def __str__(self) -> str:
        return f"seed {self.site}/{self.index}"

    def keep(self) -> Callable[[], None]:
        """Return what makes the slot again what it is now."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}

        def put_back() -> None:
            for name, value in kept.items():
                setattr(self, name, value)

        return put_back

    def check(self, to: SeedState) -> None:
        """Raise IllegalTransition unless this slot may become `to` now."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition(str(self), self.state, to)

    def advance(self, to: SeedState, step: int) -> None:
        """Become `to` at a step.

        Raises:
            IllegalTransition: the present state does not lead there.
        """
        self.check(to)
        self.state = to
        self.since_step = step
        if to in (SeedState.DORMANT, SeedState.CULLED, SeedState.ROLLED_BACK):
            self.planted = self.decision_id = None
