"""One slot of a site: its state, and the operation that filled it."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from esper.seed.ramps import RAMPS, linear
from esper.seed.states import TRANSITIONS, IllegalTransition
from esper.topics.models import Plant, Reweight, SeedState


@dataclass(slots=True)
class Slot:
    """The state of one slot; `planted` is the operation that filled it, None while dormant.

    `decision_id` is the decision of that operation, `since_step` the training step at which the
    present state began. `merged_sha256` is the digest of an artifact that was merged into the
    site's layer and has left the bank; None while the kernel runs beside the layer. `reweighted`
    is the last operation that changed alpha, `alpha_before` the alpha before that operation.
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

    def undo_point(self) -> Callable[[], None]:
        """Return a function that restores the slot's present fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}

        def restore() -> None:
            for name, value in values.items():
                setattr(self, name, value)

        return restore

    @property
    def alpha(self) -> float:
        """The seed's alpha, or the target while the seed blends; 0 without a seed."""
        change = self.reweighted or self.planted
        return 0.0 if change is None else change.alpha

    def ramp_progress(self, step: int) -> float:
        """Return the share of the ramp that a blending seed has completed at a step, at most 1."""
        change = self.reweighted or self.planted
        assert change is not None
        # The first step of a ramp must have a gradient, so its share must not be zero.
        return min(1.0, (step - self.since_step + 1) / max(change.ramp_steps, 1))

    def alpha_at(self, step: int) -> float:
        """Return the alpha of a blending seed at a step; exactly the target at the ramp's end."""
        progress = self.ramp_progress(step)
        if progress == 1.0:
            return self.alpha
        assert self.planted is not None
        ramp = RAMPS[self.planted.ramp] if self.reweighted is None else linear
        return self.alpha_before + (self.alpha - self.alpha_before) * ramp(progress)

    def check(self, to: SeedState) -> None:
        """Raise IllegalTransition unless this slot may change to `to` now."""
        if to not in TRANSITIONS[self.state]:
            raise IllegalTransition(str(self), self.state, to)

    def advance(self, to: SeedState, step: int) -> None:
        """Change to state `to` at a step.

        Raises:
            IllegalTransition: the present state has no transition to `to`.
        """
        self.check(to)
        self.state = to
        self.since_step = step
        if to in (SeedState.DORMANT, SeedState.CULLED, SeedState.ROLLED_BACK):
            self.planted = self.decision_id = self.reweighted = None
            self.alpha_before = 0.0

    def reweight(self, change: Reweight, step: int) -> None:
        """Start a ramp from the present alpha to another, at a step.

        Raises:
            IllegalTransition: the seed is not active.
        """
        before = self.alpha
        self.advance(SeedState.BLENDING, step)
        self.reweighted, self.alpha_before = change, before
