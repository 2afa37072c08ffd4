"""One slot of a site: its state, and what is planted in it."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from esper.seed.ramps import RAMPS, linear
from esper.seed.states import TRANSITIONS, IllegalTransition
from esper.topics.models import Plant, Reweight, SeedState


@dataclass(slots=True)
class Slot:
    """Where one seed lives; `planted` is the operation that filled it, None while dormant.

    `decision_id` names the decision of that operation, `since_step` is the training step at which
    the present state began. `merged_sha256` is the digest of the artifact that the site's layer
    took in for good, which has left the bank; None while what was planted runs beside the layer.
    `reweighted` is the last operation that changed its alpha, `alpha_before` where that began.
    """

    site: str
    index: int
    state: SeedState = SeedState.DORMANT
    planted: Plant | None = None
    decision_id: str | None = None
    since_step: int = 0
    merged_sha256: str | None = None
    reweighted: Reweight | None = None
    alpha_before: float = 0.0

    def __str__(self) -> str:
        return f"seed {self.site}/{self.index}"

    def keep(self) -> Callable[[], None]:
        """Return what makes the slot again what it is now."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}

        def put_back() -> None:
            for name, value in kept.items():
                setattr(self, name, value)

        return put_back

    @property
    def alpha(self) -> float:
        """The alpha that the seed has or, while it blends, will have; 0 without one."""
        change = self.reweighted or self.planted
        return 0.0 if change is None else change.alpha

    def passed_at(self, step: int) -> float:
        """Return the share of its way that a blending seed has behind it from a step on, to 1."""
        change = self.reweighted or self.planted
        assert change is not None
        # Step one of a ramp is the first with a gradient, so it must not be zero.
        return min(1.0, (step - self.since_step + 1) / max(change.ramp_steps, 1))

    def alpha_at(self, step: int) -> float:
        """Return the alpha that a blending seed has from a step on; at the end exactly its own."""
        passed = self.passed_at(step)
        if passed == 1.0:
            return self.alpha
        assert self.planted is not None
        share = RAMPS[self.planted.ramp](passed) if self.reweighted is None else linear(passed)
        return self.alpha_before + (self.alpha - self.alpha_before) * share

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
            self.planted = self.decision_id = self.reweighted = None
            self.alpha_before = 0.0

    def reweight(self, change: Reweight, step: int) -> None:
        """Be on the way from the present alpha to another, from a step on.

        Raises:
            IllegalTransition: the seed is not active.
        """
        before = self.alpha
        self.advance(SeedState.BLENDING, step)
        self.reweighted, self.alpha_before = change, before
