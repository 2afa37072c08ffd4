"""A site in auditions: its samples in two parts, after what the host would learn alone."""

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from esper.audition.host import corrected_outputs
from esper.audition.readout import ReadoutSizes, readout_sizes
from esper.audition.snapshot import SiteSnapshot, losses
from esper.topics.models import SiteSignature

FIT_SHARE: Final = 0.7
"""Share of the samples to train on; the rest score."""


@dataclass(frozen=True, slots=True)
class AuditionSite:
    """Samples to train on (`fit`) and to score with (`held`), in single precision.

    `fit_outputs` and `held_outputs` (N, P, C) are the host's after its own correction, and
    `held_losses` (N,) what they lose.
    """

    signature: SiteSignature
    sizes: ReadoutSizes
    fit: SiteSnapshot
    held: SiteSnapshot
    fit_outputs: Tensor
    held_outputs: Tensor
    held_losses: Tensor

    @classmethod
    def of(
        cls, signature: SiteSignature, snapshot: SiteSnapshot, device: str = "cpu"
    ) -> "AuditionSite":
        """Move a snapshot to `device`, and fit what the host would learn alone.

        Raises:
            SnapshotRefused: the outputs have positions that the site does not have.
        """
        sizes = readout_sizes(signature, *snapshot.outputs.shape[1:])
        fit, held = snapshot.in_single_precision().to(device).split(FIT_SHARE)
        fit_outputs, held_outputs = corrected_outputs(fit, held, sizes)
        held_losses = losses(snapshot.loss, held_outputs, held.targets)
        return cls(signature, sizes, fit, held, fit_outputs, held_outputs, held_losses)

    @property
    def host_loss(self) -> float:
        """The held-out loss without a kernel, after the host's own correction."""
        return float(self.held_losses.mean())

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        parts = (self.fit, self.held)
        return sum(tensor.nbytes for part in parts for tensor in (part.x, part.h)) + sum(
            tensor.nbytes for tensor in (self.fit_outputs, self.held_outputs)
        )
