"""What the host would learn alone from the samples of an audition, without any kernel."""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from esper.audition.readout import ReadoutSizes, correction, features_of
from esper.audition.snapshot import SiteSnapshot, losses

ITERATIONS: Final = 50
SMALL: Final = 1e-6


class _Readout(NamedTuple):
    """A linear readout of the host's own outputs, or of h too; `decay` weighs its squares."""

    with_h: bool
    decay: float


READOUTS: Final = (_Readout(False, 1e-3), _Readout(True, 1e-2), _Readout(True, 1e-1))


def corrected_outputs(
    fit: SiteSnapshot, held: SiteSnapshot, sizes: ReadoutSizes
) -> tuple[Tensor, Tensor]:
    """Return the outputs (N, P, C) of both parts after what the host would learn alone.

    Several readouts are fitted to `fit` until they converge (L-BFGS, full batch). The one with the
    lowest loss on `held` counts, or none of them: chosen on the samples that score, it leaves the
    less to the kernels.
    """
    best = fit.outputs, held.outputs
    lowest = _loss(held, held.outputs)
    for readout in READOUTS:
        found = _fitted(fit, held, sizes, readout)
        loss = _loss(held, found[1])
        if loss < lowest:
            best, lowest = found, loss
    return best


def _fitted(
    fit: SiteSnapshot, held: SiteSnapshot, sizes: ReadoutSizes, readout: _Readout
) -> tuple[Tensor, Tensor]:
    own, other = (_features(part, sizes, readout) for part in (fit, held))
    center, spread = own.mean((0, 1)), own.std((0, 1)) + SMALL
    own, other = (own - center) / spread, (other - center) / spread
    weight = own.new_zeros(len(center) + 1, sizes.outputs).requires_grad_()
    optimizer: Any = torch.optim.LBFGS([weight], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        outputs = fit.outputs + correction(own, weight)
        loss: Any = losses(fit.loss, outputs, fit.targets).mean()
        loss = loss + readout.decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    weight = weight.detach()
    return fit.outputs + correction(own, weight), held.outputs + correction(other, weight)


def _features(part: SiteSnapshot, sizes: ReadoutSizes, readout: _Readout) -> Tensor:
    outputs = part.outputs
    if outputs.shape[1] != sizes.positions:
        outputs = outputs.flatten(1).unsqueeze(1)
    return torch.cat([features_of(part.h, sizes), outputs], -1) if readout.with_h else outputs


def _loss(part: SiteSnapshot, outputs: Tensor) -> float:
    return float(losses(part.loss, outputs, part.targets).mean())
