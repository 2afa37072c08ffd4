"""The contribution of each seed: leave-one-out on held-out samples, in one forward pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.errors import EsperError
from esper.seed import Seed, Site, evaluation_mode
from esper.topics.models import SeedState

LossFn = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs (N, ..) and targets (N, ..); returns the mean loss as a tensor of one element."""

ON_TRIAL = (SeedState.BLENDING, SeedState.ACTIVE)
"""States of seeds that are measured: planted, and neither fossilized nor removed."""


class ProbeRefused(EsperError, ValueError):
    """A probe batch, model or loss function that cannot be measured."""


class ProbeResult(NamedTuple):
    """The model's probe loss, and the contribution of each seed on trial by (site, slot).

    A contribution is the loss without the seed minus the loss with it: positive helps. None stands
    for a loss that is not finite, and for a contribution computed from one.
    """

    loss: float | None
    contributions: dict[tuple[str, int], float | None]


class Probe:
    """A held-out batch: inputs (N, ..) and targets (N, ..), never from the test set."""

    def __init__(self, batch: tuple[Tensor, Tensor], loss_fn: LossFn) -> None:
        """Raise ProbeRefused for an empty batch, unequal lengths, or values that are not finite."""
        self.inputs, self.targets = batch
        self.loss_fn = loss_fn
        if len(self.inputs) != len(self.targets) or not len(self.inputs):
            raise ProbeRefused(
                f"the probe has {len(self.inputs)} inputs and {len(self.targets)} targets; "
                "give the same number of both, at least one"
            )
        for part, values in (("inputs", self.inputs), ("targets", self.targets)):
            if not bool(values.isfinite().all()):
                raise ProbeRefused(
                    f"the probe's {part} hold values that are not finite, so its loss would not "
                    "be finite; give samples without them"
                )

    def measure(self, model: nn.Module, sites: Mapping[str, Site]) -> ProbeResult:
        """Return the probe loss and the contribution of each seed on trial.

        All variants run as one batch of (1 + seeds) * N samples in evaluation mode: a per-sample
        alpha leaves one seed out of each variant. The model's mode and alphas are restored.

        Raises:
            ProbeRefused: the model or the loss function returns a value of the wrong shape or type.
        """
        trials = [
            (site.name, slot.index, seed)
            for site in sites.values()
            for slot, seed in site.seeds()
            if slot.state in ON_TRIAL
        ]
        loss, *losses_without = self._losses(model, [seed for _, _, seed in trials])
        return ProbeResult(
            loss=loss,
            contributions={
                (site, slot): _difference(without, loss)
                for (site, slot, _), without in zip(trials, losses_without, strict=True)
            },
        )

    def _losses(self, model: nn.Module, left_out: Sequence[Seed]) -> list[float | None]:
        """Return the loss of the whole model, then the losses without each of the seeds."""
        variants = 1 + len(left_out)
        alphas = [seed.alpha for seed in left_out]
        try:
            for variant, seed in enumerate(left_out, start=1):
                seed.alpha = self._alpha_without(seed.alpha, variant, variants)
            with evaluation_mode(model), torch.no_grad():
                outputs = self._outputs(model, variants)
                return [_finite(self.loss_fn(output, self.targets)) for output in outputs]
        finally:
            for seed, alpha in zip(left_out, alphas, strict=True):
                seed.alpha = alpha
            # Casts cached under no_grad would cut the next training step off from the weights.
            torch.clear_autocast_cache()

    def _outputs(self, model: nn.Module, variants: int) -> tuple[Tensor, ...]:
        batch = self.inputs.repeat(variants, *[1] * (self.inputs.dim() - 1))
        output = model(batch)
        if not isinstance(output, Tensor) or len(output) != len(batch):
            raise ProbeRefused(
                "the model's output is not one tensor with a row for each sample; "
                "grow a module whose forward returns such a tensor"
            )
        return output.chunk(variants)

    def _alpha_without(self, alpha: Tensor, variant: int, variants: int) -> Tensor:
        """Return one alpha per sample (variants * N,): 0 in the variant without the seed."""
        count = len(self.inputs)
        per_sample = alpha.expand(variants * count).clone()
        per_sample[variant * count : (variant + 1) * count] = 0.0
        return per_sample


def _finite(loss: object) -> float | None:
    if not isinstance(loss, Tensor):
        raise ProbeRefused(
            f"loss_fn returned {type(loss).__name__}; return the mean loss as a tensor"
        )
    if loss.numel() != 1:
        raise ProbeRefused(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}; return the mean loss, "
            "one number"
        )
    value = float(loss)
    return value if math.isfinite(value) else None


def _difference(without: float | None, loss: float | None) -> float | None:
    return None if without is None or loss is None else without - loss
